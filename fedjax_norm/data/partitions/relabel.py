"""Clients with permuted labels (paper 004, app. K: same features, different label)."""

import numpy as np

from fedjax_norm.data.partitions.registry import Partition, owners


def relabel(
  labels: np.ndarray, partition: Partition, num_classes: int, share: float, seed: int
) -> np.ndarray:
  """Replaces every class c of some clients by (c + s) mod C, with one random s per client.

  Args:
    labels: [N] int, each in [0, C).
    partition: the division of the examples over the clients.
    num_classes: C, at least 2.
    share: share of the clients with replaced labels, above 0 and up to 1; at least one client.
    seed: seed of the draw of these clients and of each s from 1 to C - 1.

  Returns:
    [N] int32, the labels that the clients train on.
  """
  num_clients = len(partition.offsets) - 1
  rng = np.random.default_rng(seed)
  chosen = rng.permutation(num_clients)[: max(1, round(share * num_clients))]
  shifts = np.zeros(num_clients, np.int64)
  shifts[chosen] = rng.integers(1, num_classes, len(chosen))
  return ((labels + shifts[owners(partition)]) % num_classes).astype(np.int32)
