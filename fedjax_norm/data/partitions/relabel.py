"""Clients that label alike images otherwise (paper 004, app. K: same features, different label)."""

import numpy as np

from fedjax_norm.data.partitions.registry import Partition, owners


def relabel(
  labels: np.ndarray, partition: Partition, num_classes: int, share: float, seed: int
) -> np.ndarray:
  """Lets some clients name every class c another one, (c + s) mod C with an s of their own.

  Args:
    labels: [N] int, each in [0, C).
    partition: who holds them.
    num_classes: C, at least 2.
    share: of the clients that do so, above 0 and up to 1; who they are is chance, and at least one
      does.
    seed: the only source of chance: of who, and of s in [1, C).

  Returns:
    [N] int32.
  """
  num_clients = len(partition.offsets) - 1
  rng = np.random.default_rng(seed)
  chosen = rng.permutation(num_clients)[: max(1, round(share * num_clients))]
  shifts = np.zeros(num_clients, np.int64)
  shifts[chosen] = rng.integers(1, num_classes, len(chosen))
  return ((labels + shifts[owners(partition)]) % num_classes).astype(np.int32)
