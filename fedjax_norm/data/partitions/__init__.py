"""Partitions: how the training examples are divided over the clients."""
