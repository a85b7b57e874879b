"""Flag files of whole experiments; ``--preset=list`` of a training binary describes them."""
