"""The order in which clients go through their examples: shuffled, sorted, or drifting over time.

Implements two regimes of paper 004, app. K. Correlation within a partition: examples that lie
together are drawn together, so that a batch is no random sample of the client's data. Concept
drift: the examples that a client draws from change over the rounds. Neither changes the partition.
"""

import dataclasses
from typing import NamedTuple, TypeVar

import numpy as np

from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option

KEYS = ("label", "source")
"""Sort keys of examples: the label, or the position in the source (as of a camera's frames)."""
BATCH_ORDERS = ("shuffled", *KEYS)
DRIFTS = ("none", *KEYS)

FOREVER = np.iinfo(np.int32).max
"""More steps than any run has."""


@dataclasses.dataclass(frozen=True)
class ExampleOrder(Options):
  """The order in which each client goes through its examples."""

  group = "order"

  batch_order: str = option(
    "shuffled",
    "Order of a client's examples in an epoch: shuffled, sorted by label, or as in the source; the "
    "last two make the examples of a batch alike.",
    choices=BATCH_ORDERS,
  )
  order_block: int | None = option(
    None,
    "Number of consecutive examples that stay together when each epoch shuffles the blocks; by "
    "default all examples of the client, so that every epoch has the same order.",
    least=1,
    needs="batch_order=label,source",
  )
  drift: str = option(
    "none",
    "Concept drift: each client's examples are sorted by label or by position in the source and "
    "cut into stretches, and the client draws from one stretch at a time, in turn.",
    choices=DRIFTS,
  )
  drift_stretches: int = option(
    2, "Number of stretches that each client's examples are cut into.", least=2, needs="drift"
  )
  drift_rounds: int | None = option(
    None,
    "Number of rounds that a client draws from one stretch; by default the rounds of the run "
    "divided by --drift_stretches, rounded up.",
    least=1,
    needs="drift",
  )


C = TypeVar("C", bound=ExampleOrder)


def resolve(config: C, rounds: int) -> C:
  """Returns the configuration with the default of `drift_rounds` for a run of `rounds` rounds."""
  if config.drift == "none" or config.drift_rounds is not None:
    return config
  return dataclasses.replace(config, drift_rounds=-(-rounds // config.drift_stretches))


def steps_per_stretch(
  config: ExampleOrder, rounds: int, steps: int | np.ndarray = 1
) -> int | np.ndarray:
  """Returns the local steps that a stretch lasts, for all clients or [K]; ``FOREVER`` if no drift.

  Args:
    config: the options.
    rounds: number of rounds of the run.
    steps: local steps of a client per round, for all clients or [K].
  """
  if config.drift == "none":
    return FOREVER
  return min(resolve(config, rounds).drift_rounds or rounds, rounds) * steps


class Arranged(NamedTuple):
  """The order of every client's examples, as fields of ``federated.FederatedData``.

  Attributes:
    order: [N] int32, the ids of the examples, client after client.
    block_sizes: [K] int32, the number of consecutive examples that stay together.
    num_stretches: [K] int32, at most the number of the client's examples.
    stretch_steps: [K] int32, the number of local steps that a stretch lasts.
  """

  order: np.ndarray
  block_sizes: np.ndarray
  num_stretches: np.ndarray
  stretch_steps: np.ndarray


def arrange(
  partition: Partition,
  labels: np.ndarray,
  config: ExampleOrder,
  stretch_steps: int | np.ndarray = FOREVER,
) -> Arranged:
  """Sorts each client's examples.

  Args:
    partition: the clients' examples, those of each client in random order.
    labels: [N] int.
    config: the options.
    stretch_steps: local steps that a stretch lasts, for all clients or [K].

  Raises:
    UserError: a stretch lasts less than one step.
  """
  if np.min(stretch_steps) < 1:
    raise UserError(f"a stretch lasts {np.min(stretch_steps)} steps; it must last at least 1.")
  drifts = config.drift != "none"
  order, sizes = partition.order.astype(np.int32), np.diff(partition.offsets).astype(np.int32)
  owner = np.repeat(np.arange(len(sizes)), sizes)
  stretches = np.minimum(config.drift_stretches if drifts else 1, sizes).astype(np.int32)

  def sort(by: str, groups: np.ndarray) -> np.ndarray:
    """Sorts by a key within groups; examples with equal keys stay in random order."""
    keys = labels[order] if by == "label" else order
    return order[np.lexsort((keys, groups))]

  if drifts:
    order = sort(config.drift, owner)
  if config.batch_order == "shuffled":
    blocks = np.ones_like(sizes)
  else:
    rank = np.arange(len(order)) - np.repeat(partition.offsets[:-1], sizes)
    base, extra = (values[owner] for values in np.divmod(sizes, stretches))
    # If s examples are cut into p stretches, the first s mod p have one more.
    stretch = np.where(
      rank < extra * (base + 1), rank // (base + 1), (rank - extra) // np.maximum(base, 1)
    )
    order = sort(config.batch_order, owner.astype(np.int64) * stretches.max() + stretch)
    blocks = sizes if config.order_block is None else np.minimum(config.order_block, sizes)
  steps = np.minimum(np.asarray(stretch_steps, np.float64), FOREVER).astype(np.int32)
  steps = np.broadcast_to(steps, sizes.shape)
  return Arranged(order, blocks.astype(np.int32), stretches, steps)
