"""In what order clients go through their examples: at random, correlated, or drifting with time.

Two regimes of paper 004, app. K. Correlation within a partition: what lies together is drawn
together, so that a batch is no random sample of a client's data. Concept drift: what a client draws
from changes over the rounds. Neither changes who holds what.
"""

import dataclasses
from typing import NamedTuple, TypeVar

import numpy as np

from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option

KEYS = ("label", "source")
"""What examples are sorted by: their label, or their place in the source, as a camera's frames."""
BATCH_ORDERS = ("shuffled", *KEYS)
DRIFTS = ("none", *KEYS)

FOREVER = np.iinfo(np.int32).max
"""More steps than any run has."""


@dataclasses.dataclass(frozen=True)
class Order(Options):
  """How each client goes through its examples."""

  group = "order"

  batch_order: str = option(
    "shuffled",
    "How a client goes through an epoch: at random, sorted by label, or in the order of the source "
    "(the last two make the examples of a batch alike).",
    choices=BATCH_ORDERS,
  )
  order_block: int | None = option(
    None,
    "How many examples in a row stay together; the blocks are shuffled anew every epoch. All by "
    "default, so that every epoch is the same.",
    least=1,
    needs="batch_order=label,source",
  )
  drift: str = option(
    "none",
    "Concept drift: each client's examples are sorted by label or by their place in the source and "
    "divided into stretches; the client draws from one stretch at a time, in turn.",
    choices=DRIFTS,
  )
  drift_stretches: int = option(
    2, "The number of stretches, as equal as possible.", least=2, needs="drift"
  )
  drift_rounds: int | None = option(
    None,
    "The rounds that each stretch lasts; by default a run goes through all stretches once.",
    least=1,
    needs="drift",
  )


C = TypeVar("C", bound=Order)


def resolve(config: C, rounds: int) -> C:
  """The configuration with the rounds that a stretch lasts filled in.

  Args:
    config: the order.
    rounds: of the run.
  """
  if config.drift == "none" or config.drift_rounds is not None:
    return config
  return dataclasses.replace(config, drift_rounds=-(-rounds // config.drift_stretches))


def span(config: Order, rounds: int, steps: int | np.ndarray = 1) -> int | np.ndarray:
  """The local steps that a stretch lasts, for all clients or [K]; ``FOREVER`` without drift.

  Args:
    config: the order.
    rounds: of the run.
    steps: of a client in a round, for all clients or [K].
  """
  if config.drift == "none":
    return FOREVER
  return min(resolve(config, rounds).drift_rounds or rounds, rounds) * steps


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


def arrange(
  partition: Partition, labels: np.ndarray, config: Order, span: int | np.ndarray = FOREVER
) -> Arranged:
  """Sorts each client's examples as an order says.

  Args:
    partition: who holds what, each client's examples in random order.
    labels: [N] int.
    config: the order.
    span: the local steps that a stretch lasts (:func:`span`), for all clients or [K].

  Raises:
    UserError: a stretch that lasts no step.
  """
  if np.min(span) < 1:
    raise UserError(f"a stretch lasts {np.min(span)} steps; it must last at least 1.")
  drifts = config.drift != "none"
  order, sizes = partition.order.astype(np.int32), np.diff(partition.offsets).astype(np.int32)
  owner = np.repeat(np.arange(len(sizes)), sizes)
  stretches = np.minimum(config.drift_stretches if drifts else 1, sizes).astype(np.int32)

  def sort(by: str, within: np.ndarray) -> np.ndarray:
    """By a key within groups that are in order already; equal keys stay in random order."""
    keys = labels[order] if by == "label" else order
    return order[np.lexsort((keys, within))]

  if drifts:
    order = sort(config.drift, owner)
  if config.batch_order != "shuffled":
    rank = np.arange(len(order)) - np.repeat(partition.offsets[:-1], sizes)
    base, extra = (values[owner] for values in np.divmod(sizes, stretches))
    # Of s examples in p stretches, the first s mod p hold one more.
    stretch = np.where(
      rank < extra * (base + 1), rank // (base + 1), (rank - extra) // np.maximum(base, 1)
    )
    order = sort(config.batch_order, owner.astype(np.int64) * stretches.max() + stretch)
  if config.batch_order == "shuffled":
    blocks = np.ones_like(sizes)
  else:
    blocks = sizes if config.order_block is None else np.minimum(config.order_block, sizes)
  spans = np.minimum(np.asarray(span, np.float64), FOREVER).astype(np.int32)
  spans = np.broadcast_to(spans, sizes.shape)
  return Arranged(order, blocks.astype(np.int32), stretches, spans)
