"""The ledger: what a real federation would send, in bytes and round trips."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm import models, tree_leaves
from fedjax_norm.norm import NormSpec
from fedjax_norm.typing import Array, PyTree, Variables

_FLOAT_BYTES = 4
_LOW_BITS = 20
_LOW = 2**_LOW_BITS - 1
MOST_SENDERS = 2 ** (32 - _LOW_BITS)
"""Fewer senders than this can be counted at once (see :class:`Counter`)."""


class Traffic(NamedTuple):
  """What has been sent.

  Attributes:
    bytes_up: from clients to the server, summed over clients.
    bytes_down: from the server to clients, summed over clients.
    round_trips: exchanges that follow one another; clients send at the same time, so a FedAvg round
      is one whatever the cohort.
  """

  bytes_up: int = 0
  bytes_down: int = 0
  round_trips: int = 0

  def __add__(self, other):
    """Adds field by field."""
    return Traffic(*(a + b for a, b in zip(self, other, strict=True)))

  def minus(self, other: "Traffic") -> "Traffic":
    """What has been sent since the other."""
    return Traffic(*(a - b for a, b in zip(self, other, strict=True)))


class Cost(NamedTuple):
  """What one client of one round sends and receives, in bytes, and how often it must wait.

  Attributes:
    up: bytes to the server a round.
    down: bytes from the server a round.
    step_up: further bytes a local step.
    step_down: further bytes a local step.
    step_trips: further round trips a local step.
    trips: round trips a round, without those of its steps.

  """

  up: int
  down: int
  step_up: int = 0
  step_down: int = 0
  step_trips: int = 0
  trips: int = 1

  def of_round(self, steps: list[int]) -> Traffic:
    """The traffic of a round whose clients take these numbers of local steps."""
    return Traffic(
      bytes_up=sum(self.up + self.step_up * n for n in steps),
      bytes_down=sum(self.down + self.step_down * n for n in steps),
      round_trips=self.trips + self.step_trips * max(steps),
    )


class Counter(NamedTuple):
  """A whole number of bytes that a program counts without rounding, up to 2^52.

  Attributes:
    high: uint32, multiples of 2^20.
    low: uint32, what is left; below 2^20 unless :func:`add` has yet to carry.
  """

  high: Array
  low: Array

  @classmethod
  def of(cls, count: Array | int) -> "Counter":
    """A count: any of the host's, or of a program's one below 2^32, as uint32.

    The sum of fewer than 4096 of a program's does not overflow.
    """
    if isinstance(count, int):
      return cls(jnp.uint32(count >> _LOW_BITS), jnp.uint32(count & _LOW))
    return cls(count >> _LOW_BITS, count & _LOW)

  def times(self, factor: Array | int) -> "Counter":
    """A multiple, by fewer than 4096; it has yet to be carried."""
    factor = jnp.uint32(factor)
    return Counter(self.high * factor, self.low * factor)

  def add(self, other: "Counter") -> "Counter":
    """The sum, carried."""
    low = self.low + other.low
    return Counter(self.high + other.high + (low >> _LOW_BITS), low & _LOW)

  def value(self) -> int:
    """The number, on the host."""
    return (int(self.high) << _LOW_BITS) + int(self.low)

  def values(self) -> np.ndarray:
    """The numbers of many counts, int64, on the host."""
    return (np.asarray(self.high, np.int64) << _LOW_BITS) + np.asarray(self.low, np.int64)


class Sent(NamedTuple):
  """What has been sent since the start of a run, in a program's state.

  Attributes:
    up: bytes to the server.
    down: bytes from it.
    trips: round trips.
  """

  up: Counter
  down: Counter
  trips: Counter

  @classmethod
  def zeros(cls) -> "Sent":
    """Nothing."""
    return cls(*(Counter.of(0) for _ in cls._fields))

  def add(self, up: Counter, down: Counter, trips: Counter) -> "Sent":
    """With more traffic."""
    return Sent(self.up.add(up), self.down.add(down), self.trips.add(trips))

  def traffic(self) -> Traffic:
    """The numbers, on the host."""
    return Traffic(*(counter.value() for counter in self))


def update_bytes(update: PyTree) -> Array:
  """The bytes of an update of which zeros are not sent, uint32.

  No tensor may have 2^29 elements or more.

  Every tensor is a message of its own: four bytes that hold the number of values that are not zero
  and which of three forms follows, whichever is the shortest:

    pairs of a 4-byte index and a 4-byte value;
    a bit for each element, filled up to whole bytes, and the values whose bit is set;
    all elements, 4 bytes each.
  """
  total = jnp.uint32(0)
  for leaf in jax.tree.leaves(update):
    count = jnp.count_nonzero(leaf).astype(jnp.uint32)
    pairs, bits, dense = 8 * count, -(-leaf.size // 8) + 4 * count, jnp.uint32(4 * leaf.size)
    total += 4 + jnp.minimum(jnp.minimum(pairs, bits), dense)
  return total


def lockstep_cost(spec: NormSpec, groups: list[int]) -> tuple[int, int, int]:
  """(bytes up, bytes down, round trips) a step of a norm that merges its moments across nodes.

  A layer sends its moments forward (a count, G means and G m2) and, for the exact gradient, two
  sums a group backward; each comes back merged (``moments.merge_over_axes``).

  Args:
    spec: the norm.
    groups: of each norm layer (see ``models.norm_modules``).
  """
  if not spec.across_clients or not spec.updates_running_statistics:
    return 0, 0, 0
  one_way = _FLOAT_BYTES * sum(1 + 4 * g for g in groups)
  return one_way, one_way, 2 * len(groups)


def paper_cost(cost: Cost, spec: NormSpec, groups: list[int]) -> Cost:
  """A cost with distributed BN counted as paper 000 does (sec. 4.2): 2 n + 1 round trips a step.

  The mean goes up and comes back, then the variance, a number a group each; the exchange that the
  exact gradient needs is left out.
  """
  if not spec.across_clients or not spec.updates_running_statistics:
    return cost
  one_way = _FLOAT_BYTES * 2 * sum(groups)
  return cost._replace(step_up=one_way, step_down=one_way, step_trips=2 * len(groups))


def model_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> Variables:
  """The shapes of a model's variables, without computing any."""
  return jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_shape))


def exchange_cost(
  model: nn.Module, image_shape: tuple[int, int, int], policy: str, up: PyTree, down: PyTree
) -> Cost:
  """The cost of a round that sends these trees and what the norm needs besides.

  Args:
    model: its norm bound to no axis.
    image_shape: (H, W, C).
    policy: how running statistics are combined; it decides which of them cross.
    up: what a client sends besides running statistics, arrays or their shapes.
    down: what a client receives besides running statistics.
  """
  spec = model.norm
  stats = tree_leaves.num_bytes(model_shapes(model, image_shape).get("batch_stats", {}))
  shared = policy in ("mean", "moments")
  # A client gets the whole model, frozen statistics too.
  stats_down = stats * (shared or (policy == "recalibrate" and not spec.updates_running_statistics))
  stats_up = stats * (shared and spec.updates_running_statistics)
  norms = list(models.norm_modules(model, image_shape).values())
  return Cost(
    tree_leaves.num_bytes(up) + stats_up,
    tree_leaves.num_bytes(down) + stats_down,
    *lockstep_cost(spec, norms),
  )


def without(tree: PyTree, params: PyTree, paths: Collection[str]) -> PyTree:
  """The tree with None at some paths of each subtree that has the parameters' structure."""
  if not paths:
    return tree
  return _of_params(tree, params, lambda part: tree_leaves.put(part, dict.fromkeys(paths)))


def filled(tree: PyTree, params: PyTree, paths: Collection[str]) -> PyTree:
  """The inverse of :func:`without`: zeros where it left nothing."""
  if not paths:
    return tree
  zeros = jax.tree.map(jax.numpy.zeros_like, tree_leaves.pick(params, paths))
  return _of_params(tree, without(params, params, paths), lambda part: tree_leaves.put(part, zeros))


def _of_params(tree: PyTree, params: PyTree, change: Callable[[Any], Any]) -> PyTree:
  structure: Any = jax.tree.structure(params)

  def has_structure(part: Any) -> bool:
    return structure == jax.tree.structure(part)

  return jax.tree.map(
    lambda part: change(part) if has_structure(part) else part, tree, is_leaf=has_structure
  )
