"""In what order clients go through their examples: at random, correlated, or drifting with time.

Two regimes of paper 004, app. K. Correlation within a partition: what lies together is drawn
together, so that a batch is no random sample of a client's data. Concept drift: what a client draws
from changes over the rounds. Neither changes who holds what.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from fedjax_norm.data.partition import Partition
from fedjax_norm.errors import UserError

KEYS = ("label", "source")
"""What examples are sorted by: their label, or their place in the source, as a camera's frames."""
BATCH_ORDERS = ("shuffled", *KEYS)
DRIFTS = ("none", *KEYS)

_FOREVER = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Order:
  """How each client orders its examples.

  Attributes:
    batches: ``'shuffled'``, or what an epoch's examples are sorted by.
    block: how many examples in a row stay together while the blocks are shuffled anew every epoch
      (what fills no block comes last); 1 is no correlation, None all: every epoch is the same.
    drift: ``'none'``, or what a client's examples are sorted by, once, to be divided into
      stretches.
    stretches: how many, as even as can be; a client draws from one of them at a time, in turn, and
      an epoch is one of the stretch.
    span: local steps that a stretch lasts, for all clients or [K].
  """

  batches: str = "shuffled"
  block: int | None = None
  drift: str = "none"
  stretches: int = 1
  span: int | np.ndarray = _FOREVER

  def __post_init__(self):
    for field, choices in (("batches", BATCH_ORDERS), ("drift", DRIFTS)):
      if getattr(self, field) not in choices:
        raise UserError(
          f"unknown {field} order {getattr(self, field)!r}; choose one of {', '.join(choices)}."
        )
    if self.block is not None and (self.batches == "shuffled" or self.block < 1):
      raise UserError(
        f"a block of {self.block} examples must have at least 1, and needs an order of batches that"
        " is not shuffled."
      )
    if (self.drift == "none") != (self.stretches == 1) or self.stretches < 1:
      raise UserError(
        f"{self.stretches} stretches with the drift {self.drift!r}: a drift has 2 or more, and no"
        " drift has 1."
      )
    if np.min(self.span) < 1:
      raise UserError(f"a stretch lasts {np.min(self.span)} steps; it must last at least 1.")


class Arranged(NamedTuple):
  """An order, laid out for ``federated.draw``.

  Attributes:
    order: [N] int32, the ids of the examples, client after client.
    blocks: [K] int32, examples that stay together.
    stretches: [K] int32, at most as many as the client has examples.
    spans: [K] int32, local steps that each lasts.
  """

  order: np.ndarray
  blocks: np.ndarray
  stretches: np.ndarray
  spans: np.ndarray


def arrange(partition: Partition, labels: np.ndarray, config: Order) -> Arranged:
  """Sorts each client's examples as an order says.

  Args:
    partition: who holds what, each client's examples in random order.
    labels: [N] int.
    config: the order.
  """
  order, sizes = partition.order.astype(np.int32), np.diff(partition.offsets).astype(np.int32)
  owner = np.repeat(np.arange(len(sizes)), sizes)
  stretches = np.minimum(config.stretches, sizes).astype(np.int32)

  def sort(by: str, within: np.ndarray) -> np.ndarray:
    """By a key within groups that are in order already; equal keys stay in random order."""
    keys = labels[order] if by == "label" else order
    return order[np.lexsort((keys, within))]

  if config.drift != "none":
    order = sort(config.drift, owner)
  if config.batches != "shuffled":
    rank = np.arange(len(order)) - np.repeat(partition.offsets[:-1], sizes)
    base, extra = (values[owner] for values in np.divmod(sizes, stretches))
    # Of s examples in p stretches, the first s mod p hold one more.
    stretch = np.where(
      rank < extra * (base + 1), rank // (base + 1), (rank - extra) // np.maximum(base, 1)
    )
    order = sort(config.batches, owner.astype(np.int64) * config.stretches + stretch)
  if config.batches == "shuffled":
    blocks = np.ones_like(sizes)
  else:
    blocks = sizes if config.block is None else np.minimum(config.block, sizes)
  spans = np.minimum(np.asarray(config.span, np.float64), _FOREVER).astype(np.int32)
  spans = np.broadcast_to(spans, sizes.shape)
  return Arranged(order, blocks.astype(np.int32), stretches, spans)
