"""Clients that know the labels of only some of their examples (paper 003, sec. 3.3, Alg. 3)."""

import numpy as np

from fedjax_norm.data.partitions.registry import Partition, owners, sizes
from fedjax_norm.errors import UserError

HIDDEN_LABEL = -1
"""The training label of an example whose class the client does not know."""


def hide_labels(labels: np.ndarray, partition: Partition, share: float, seed: int) -> np.ndarray:
  """Hides random labels of each client, which then knows only a share of its labels, at least one.

  The draw depends only on the partition and the seed, not on the classes, so all processes of a run
  hide the same labels.

  Args:
    labels: [N] int, each in [0, C).
    partition: the division of the examples over the clients.
    share: share of a client's labels that stay known, above 0 and below 1.
    seed: seed of the draw.

  Returns:
    [N] int32, with ``HIDDEN_LABEL`` for the hidden labels.

  Raises:
    UserError: the share is out of range, or the partition has another number of examples.
  """
  if not 0 < share < 1:
    raise UserError(f"The share of known labels must lie between 0 and 1, not {share}.")
  if labels.shape != partition.order.shape:
    raise UserError(
      f"There are {labels.size} labels for the {len(partition.order)} examples of the partition; "
      "give the labels that were partitioned."
    )
  chance = np.random.default_rng(seed).random(len(labels))
  ids = np.lexsort((chance, owners(partition)))  # by client, in random order within each client
  rank = np.arange(len(ids)) - np.repeat(partition.offsets[:-1], sizes(partition))
  num_known = np.maximum(1, np.round(share * sizes(partition)))
  known = np.empty(len(ids), bool)
  known[ids] = rank < np.repeat(num_known, sizes(partition))
  return np.where(known, labels, HIDDEN_LABEL).astype(np.int32)
