"""Split learning (paper 003): parties hold different stages of a model and exchange tensors.

The names of the paper appear as ids of parties: ``alice`` (``alice3`` is client 3) is a client, who
holds the images and the first stages; ``bob`` is the server, who holds the later stages; ``eve0``,
``eve1``, ... are relays between them.
"""
