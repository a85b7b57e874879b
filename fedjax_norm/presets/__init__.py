"""Whole experiments as flag files; ``--preset=list`` of a training binary describes them."""
