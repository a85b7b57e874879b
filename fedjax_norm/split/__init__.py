"""Split learning (paper 003): parties hold different stages of a model and exchange tensors.

The parties have the paper's names: ``alice`` is a client (``alice3`` is client 3), which holds
images and the first stages of the model; ``bob`` is the server, which holds the later stages;
``eve0``, ``eve1``, ... are relays between clients and server.
"""
