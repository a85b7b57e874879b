"""Clients that know the labels of some of their examples only (paper 003, sec. 3.3, Alg. 3)."""

import numpy as np

from fedjax_norm.data.partitions.registry import Partition, owners, sizes
from fedjax_norm.errors import UserError

HIDDEN_LABEL = -1
"""The label of an example whose class its client does not know."""


def hide_labels(labels: np.ndarray, partition: Partition, share: float, seed: int) -> np.ndarray:
  """Hides labels, so that each client knows about that share of its own, and one at the least.

  Which ones is chance, whatever their classes. It depends on the partition and the seed alone, so
  that every one of several processes finds the same.

  Args:
    labels: [N] int, each in [0, C).
    partition: who holds them.
    share: of the labels that stay, above 0 and below 1.
    seed: the only source of chance.

  Returns:
    [N] int32, ``HIDDEN_LABEL`` in place of what is not known.

  Raises:
    UserError: a share out of range, or labels that are not those of the partition.
  """
  if not 0 < share < 1:
    raise UserError(f"The share of labels that are known must lie between 0 and 1, not {share}.")
  if labels.shape != partition.order.shape:
    raise UserError(
      f"There are {labels.size} labels for the {len(partition.order)} examples of the partition; "
      "give those that were partitioned."
    )
  chance = np.random.default_rng(seed).random(len(labels))
  own = np.lexsort((chance, owners(partition)))  # client after client, each one's in random order
  rank = np.arange(len(own)) - np.repeat(partition.offsets[:-1], sizes(partition))
  keep = np.maximum(1, np.round(share * sizes(partition)))
  known = np.empty(len(own), bool)
  known[own] = rank < np.repeat(keep, sizes(partition))
  return np.where(known, labels, HIDDEN_LABEL).astype(np.int32)
