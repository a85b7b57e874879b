"""Data sources, partitions over clients, and the batches that a client draws."""
