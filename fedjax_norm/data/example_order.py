"""The order in which clients go through their examples: shuffled, sorted, or drifting over time.

Implements two regimes of paper 004, app. K, which do not change the partition. Correlation within a
partition: similar examples are drawn together, so a batch is no random sample of the client's data.
Concept drift: the examples that a client draws from change over the rounds.
"""

import dataclasses
from typing import NamedTuple, TypeVar

import numpy as np

from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option

KEYS = ("label", "source")
"""Sort keys of examples: the label, or the position in the source, as for frames of a camera."""
BATCH_ORDERS = ("shuffled", *KEYS)
DRIFTS = ("none", *KEYS)

FOREVER = np.iinfo(np.int32).max
"""The length of a stretch without drift: more local steps than any run has."""


@dataclasses.dataclass(frozen=True)
class ExampleOrder(Options):
  """Options of the order in which each client goes through its training examples."""

  group = "order"

  batch_order: str = option(
    "shuffled",
    "Order of a client's examples in an epoch: shuffled, sorted by label, or as in the source. The "
    "last two make the examples of a batch alike (paper 004, app. K).",
    choices=BATCH_ORDERS,
  )
  order_block: int | None = option(
    None,
    "Number of consecutive examples in a block. Each epoch shuffles the blocks, not the examples "
    "inside; by default a client has one block, so that all its epochs have the same order.",
    least=1,
    needs="batch_order=label,source",
  )
  drift: str = option(
    "none",
    "Concept drift (paper 004, app. K): each client's examples are sorted by label or by position "
    "in the source and cut into stretches; the client trains on one stretch at a time, in turn.",
    choices=DRIFTS,
  )
  drift_stretches: int = option(
    2, "Number of stretches that --drift cuts a client's examples into.", least=2, needs="drift"
  )
  drift_rounds: int | None = option(
    None,
    "Number of rounds before --drift changes to the next stretch; by default the rounds of the run "
    "divided by --drift_stretches, rounded up.",
    least=1,
    needs="drift",
  )
  drift_keeps: bool = option(
    False,
    "Whether clients keep the examples of earlier stretches, so that their data grows until they "
    "have all of it (new annotated data in training; paper 003, sec. 3.4). The numbers of local "
    "steps and the clients' weights stay those of all data.",
    needs="drift",
  )


C = TypeVar("C", bound=ExampleOrder)


def resolve(config: C, rounds: int) -> C:
  """Returns the options with `drift_rounds` filled in, if there is drift, for a run of `rounds`."""
  if config.drift == "none" or config.drift_rounds is not None:
    return config
  return dataclasses.replace(config, drift_rounds=-(-rounds // config.drift_stretches))


def steps_per_stretch(
  config: ExampleOrder, rounds: int, steps: int | np.ndarray = 1
) -> int | np.ndarray:
  """Returns the number of local steps before drift changes the stretch; ``FOREVER`` without drift.

  ``rounds`` is the length of the run, and ``steps`` the number of local steps of a client per
  round. ``steps`` and the result are one number for all clients, or [K].
  """
  if config.drift == "none":
    return FOREVER
  return min(resolve(config, rounds).drift_rounds or rounds, rounds) * steps


class Arranged(NamedTuple):
  """The order of every client's examples, as fields of ``federated.FederatedData``.

  Attributes:
    order: [N] int32, the ids of the examples, client after client.
    block_sizes: [K] int32, the number of consecutive examples that stay together in an epoch.
    num_stretches: [K] int32, at most the number of the client's examples; 1 is no drift.
    stretch_steps: [K] int32, the number of local steps before drift changes the stretch.
    keeps_stretches: [K] bool, whether a client keeps the examples of earlier stretches.
  """

  order: np.ndarray
  block_sizes: np.ndarray
  num_stretches: np.ndarray
  stretch_steps: np.ndarray
  keeps_stretches: np.ndarray


def arrange(
  partition: Partition,
  labels: np.ndarray,
  config: ExampleOrder,
  stretch_steps: int | np.ndarray = FOREVER,
) -> Arranged:
  """Returns each client's examples in the order that the options choose.

  Args:
    partition: the examples of each client, in random order.
    labels: [N] int, the classes of all examples.
    config: the options.
    stretch_steps: local steps before drift changes the stretch, for all clients or [K].

  Raises:
    UserError: a stretch lasts less than one step.
  """
  if np.min(stretch_steps) < 1:
    raise UserError(f"stretch_steps is {np.min(stretch_steps)}; make it at least 1 local step.")
  drifts = config.drift != "none"
  order, sizes = partition.order.astype(np.int32), np.diff(partition.offsets).astype(np.int32)
  owner = np.repeat(np.arange(len(sizes)), sizes)
  stretches = np.minimum(config.drift_stretches if drifts else 1, sizes).astype(np.int32)

  def sort(by: str, groups: np.ndarray) -> np.ndarray:
    """Sorts the examples within each group; those with equal keys stay in random order."""
    keys = labels[order] if by == "label" else order
    return order[np.lexsort((keys, groups))]

  if drifts:
    order = sort(config.drift, owner)
  if config.batch_order == "shuffled":
    blocks = np.ones_like(sizes)
  else:
    rank = np.arange(len(order)) - np.repeat(partition.offsets[:-1], sizes)
    base, extra = (values[owner] for values in np.divmod(sizes, stretches))
    # If s examples are cut into p stretches, the first s mod p stretches have one example more.
    stretch = np.where(
      rank < extra * (base + 1), rank // (base + 1), (rank - extra) // np.maximum(base, 1)
    )
    order = sort(config.batch_order, owner.astype(np.int64) * stretches.max() + stretch)
    blocks = sizes if config.order_block is None else np.minimum(config.order_block, sizes)
  steps = np.minimum(np.asarray(stretch_steps, np.float64), FOREVER).astype(np.int32)
  steps = np.broadcast_to(steps, sizes.shape)
  keeps = np.full(sizes.shape, config.drift_keeps)
  return Arranged(order, blocks.astype(np.int32), stretches, steps, keeps)
