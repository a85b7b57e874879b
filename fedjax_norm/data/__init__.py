"""Data sources, partitions over clients, and how a client draws its batches."""
