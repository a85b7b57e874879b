"""The ledger: the bytes and round trips that the algorithm would need in a real federation."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from fedjax_norm import models, tree_leaves
from fedjax_norm.norm import NormSpec
from fedjax_norm.typing import Array, PyTree, Variables

_FLOAT_BYTES = 4
_LOW_BITS = 20
_LOW = 2**_LOW_BITS - 1
MAX_SENDERS = 2 ** (32 - _LOW_BITS)
"""The sum of fewer clients' counters than this does not overflow (see :class:`Counter`)."""


class Traffic(NamedTuple):
  """Bytes and round trips.

  Attributes:
    bytes_up: bytes from clients to the server, summed over clients.
    bytes_down: bytes from the server to clients, summed over clients.
    round_trips: sequential exchanges; clients send in parallel, so a FedAvg round is one round trip
      whatever the cohort.
  """

  bytes_up: int = 0
  bytes_down: int = 0
  round_trips: int = 0

  def __add__(self, other: "Traffic") -> "Traffic":  # type: ignore[override]
    """Adds field by field."""
    return Traffic(*(a + b for a, b in zip(self, other, strict=True)))

  def minus(self, other: "Traffic") -> "Traffic":
    """Subtracts field by field."""
    return Traffic(*(a - b for a, b in zip(self, other, strict=True)))


class Cost(NamedTuple):
  """Bytes and round trips of one client in one round.

  Attributes:
    up: bytes to the server per round.
    down: bytes from the server per round.
    step_up: further bytes to the server per local step.
    step_down: further bytes from the server per local step.
    step_trips: further round trips per local step.
    trips: round trips per round, in addition to ``step_trips`` for each local step.
  """

  up: int
  down: int
  step_up: int = 0
  step_down: int = 0
  step_trips: int = 0
  trips: int = 1

  def of_round(self, steps: list[int]) -> Traffic:
    """Returns the traffic of a round in which client i takes ``steps[i]`` local steps."""
    return Traffic(
      bytes_up=sum(self.up + self.step_up * n for n in steps),
      bytes_down=sum(self.down + self.step_down * n for n in steps),
      round_trips=self.trips + self.step_trips * max(steps),
    )


class Counter(NamedTuple):
  """A whole number, up to 2^52, that a compiled program counts without rounding.

  Attributes:
    high: uint32, multiples of 2^20.
    low: uint32, the remainder; below 2^20 unless :func:`add` has yet to carry.
  """

  high: Array
  low: Array

  @classmethod
  def of(cls, count: Array | int) -> "Counter":
    """Makes a counter of a Python int, or of a uint32 array of a compiled program.

    The sum of fewer than ``MAX_SENDERS`` counters of arrays does not overflow.
    """
    if isinstance(count, int):
      return cls(jnp.uint32(count >> _LOW_BITS), jnp.uint32(count & _LOW))
    return cls(count >> _LOW_BITS, count & _LOW)

  def times(self, factor: Array | int) -> "Counter":
    """Returns the product with a factor below ``MAX_SENDERS``; only :func:`add` carries."""
    factor = jnp.uint32(factor)
    return Counter(self.high * factor, self.low * factor)

  def add(self, other: "Counter") -> "Counter":
    """Returns the sum with another counter, with the excess of ``low`` carried to ``high``."""
    low = self.low + other.low
    return Counter(self.high + other.high + (low >> _LOW_BITS), low & _LOW)

  def value(self) -> int:
    """Returns the counted number as a Python integer."""
    return (int(self.high) << _LOW_BITS) + int(self.low)

  def values(self) -> np.ndarray:
    """Returns the counted numbers of a counter of arrays, as int64 in host memory."""
    return (np.asarray(self.high, np.int64) << _LOW_BITS) + np.asarray(self.low, np.int64)


class TrafficCounter(NamedTuple):
  """The traffic since the start of a run, counted in a compiled program's state.

  Attributes:
    up: bytes to the server.
    down: bytes from the server.
    trips: round trips.
  """

  up: Counter
  down: Counter
  trips: Counter

  @classmethod
  def zeros(cls) -> "TrafficCounter":
    """Returns a counter that has counted nothing yet."""
    return cls(*(Counter.of(0) for _ in cls._fields))

  def add(self, up: Counter, down: Counter, trips: Counter) -> "TrafficCounter":
    """Returns the counter with further traffic added."""
    return TrafficCounter(self.up.add(up), self.down.add(down), self.trips.add(trips))

  def traffic(self) -> Traffic:
    """Returns the counted bytes and round trips as Python integers."""
    return Traffic(*(counter.value() for counter in self))


def update_bytes(update: PyTree) -> Array:
  """Returns the bytes (uint32) of a message with the values of an update that are not zero.

  Tensors must have fewer than 2^29 elements. For each tensor, four bytes have the number of
  non-zero values and the encoding of the rest, which is the shortest of three:

    pairs of a 4-byte index and a 4-byte value;
    a bit for each element, padded to whole bytes, and the values whose bit is set;
    all elements, 4 bytes each.
  """
  total = jnp.uint32(0)
  for leaf in jax.tree.leaves(update):
    count = jnp.count_nonzero(leaf).astype(jnp.uint32)
    pairs, bits, dense = 8 * count, -(-leaf.size // 8) + 4 * count, jnp.uint32(4 * leaf.size)
    total += 4 + jnp.minimum(jnp.minimum(pairs, bits), dense)
  return total


def lockstep_cost(spec: NormSpec, groups: list[int]) -> tuple[int, int, int]:
  """Returns (bytes up, bytes down, round trips) per step of a norm that merges clients' moments.

  A norm layer with G groups (an entry of ``groups``) sends moments in the forward pass: a count, G
  means and G m2. In the backward pass it sends two sums per group, for the exact gradient. Both
  messages come back merged (``moments.merge_over_axes``).
  """
  if not spec.across_clients or not spec.updates_running_statistics:
    return 0, 0, 0
  one_way = _FLOAT_BYTES * sum(1 + 4 * g for g in groups)
  return one_way, one_way, 2 * len(groups)


def paper_cost(cost: Cost, spec: NormSpec, groups: list[int]) -> Cost:
  """Returns a cost that counts distributed BN as paper 000 does (sec. 4.2).

  A step has 2 n + 1 round trips for n norm layers: each layer sends the mean up and receives the
  merged mean, then the variance, one number per group; the backward pass is not counted.
  """
  if not spec.across_clients or not spec.updates_running_statistics:
    return cost
  one_way = _FLOAT_BYTES * 2 * sum(groups)
  return cost._replace(step_up=one_way, step_down=one_way, step_trips=2 * len(groups))


def model_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> Variables:
  """Returns a model's variables as shapes and dtypes, without computing their values."""
  return jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_shape))


def exchange_cost(
  model: nn.Module, image_shape: tuple[int, int, int], policy: str, up: PyTree, down: PyTree
) -> Cost:
  """Returns a client's cost of a round: given trees, running statistics and the norm's exchanges.

  ``up`` and ``down`` are the arrays (or their shapes) that a client sends and receives, without
  running statistics; ``policy`` (``batch_stats``) decides whether the statistics are sent too.
  """
  spec = model.norm
  stats = tree_leaves.num_bytes(model_shapes(model, image_shape).get("batch_stats", {}))
  shared = policy in ("mean", "moments")
  # A client receives the whole model, including frozen statistics.
  stats_down = stats * (shared or (policy == "recalibrate" and not spec.updates_running_statistics))
  stats_up = stats * (shared and spec.updates_running_statistics)
  groups = list(models.norm_modules(model, image_shape).values())
  return Cost(
    tree_leaves.num_bytes(up) + stats_up,
    tree_leaves.num_bytes(down) + stats_down,
    *lockstep_cost(spec, groups),
  )


def without(tree: PyTree, params: PyTree, paths: Collection[str]) -> PyTree:
  """Replaces unsent parameters (at ``paths``) by None in all subtrees structured as ``params``."""
  if not paths:
    return tree
  return _map_params(tree, params, lambda part: tree_leaves.put(part, dict.fromkeys(paths)))


def filled(tree: PyTree, params: PyTree, paths: Collection[str]) -> PyTree:
  """Returns the tree with zeros in place of the parameters that :func:`without` removed."""
  if not paths:
    return tree
  zeros = optax.tree.zeros_like(tree_leaves.pick(params, paths))
  sent = without(params, params, paths)
  return _map_params(tree, sent, lambda part: tree_leaves.put(part, zeros))


def _map_params(tree: PyTree, params: PyTree, change: Callable[[Any], Any]) -> PyTree:
  """Applies a function to each subtree of ``tree`` that has the structure of ``params``."""
  structure: Any = jax.tree.structure(params)

  def is_params(part: Any) -> bool:
    return structure == jax.tree.structure(part)

  return jax.tree.map(lambda x: change(x) if is_params(x) else x, tree, is_leaf=is_params)
