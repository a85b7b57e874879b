"""Counts bytes, round trips and examples of split learning inside a compiled program."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.costs.ledger import Cost, Counter
from fedjax_norm.errors import UserError
from fedjax_norm.split.plan import ALICE, Plan, num_bytes
from fedjax_norm.typing import Array, PyTree, Variables


class Tally(NamedTuple):
  """Counts of communication and examples.

  Attributes:
    up: bytes sent by clients.
    down: bytes received by clients.
    relayed: bytes sent among server and relays.
    trips: round trips.
    examples: examples that a client's head processed.
    exchanged: examples that crossed the cut: all, or with an autoencoder the labelled ones.
  """

  up: Counter
  down: Counter
  relayed: Counter
  trips: Counter
  examples: Counter
  exchanged: Counter

  @classmethod
  def zeros(cls) -> "Tally":
    """Returns a tally of zeros."""
    return cls(*(Counter.of(0) for _ in cls._fields))

  def add(self, other: "Tally") -> "Tally":
    """Returns the sum of two tallies."""
    return Tally(*(a.add(b) for a, b in zip(self, other, strict=True)))


def make_step_tally(
  plan: Plan,
  outputs: Sequence[PyTree],
  label: jax.ShapeDtypeStruct,
  batch_size: int,
  *,
  trips: bool,
) -> Callable[[Array, Array], Tally]:
  """Returns a function: (examples in the batch, examples that cross the cut) -> tally of one step.

  Bytes are those of tensors without padding, headers and encryption.

  Args:
    plan: the segments of the model and the party of each segment.
    outputs: shapes of each segment's output for one example.
    label: shape of the label of one example.
    batch_size: largest number of examples in a step.
    trips: whether to count the step's round trips, because clients train sequentially.

  Raises:
    UserError: a step would send 4 GiB or more.
  """
  up = down = relayed = 0
  label_bytes = 0 if plan.u_shaped else num_bytes(label)
  for before, after, output in zip(plan.segments, plan.segments[1:], outputs, strict=False):
    size = num_bytes(output)
    if before.owner == ALICE:
      up, down = up + size + label_bytes, down + size
    elif after.owner == ALICE:
      up, down = up + size, down + size
    else:
      relayed += 2 * size + label_bytes
  if (most := max(up, down, relayed) * batch_size) >= 2**32:
    raise UserError(
      f"a step of {batch_size} examples would send {most:,} bytes, but 4 GiB or more cannot be "
      "counted; cut the model elsewhere or use a smaller batch_size."
    )

  def step_tally(examples: Array, exchanged: Array) -> Tally:
    rows = exchanged.astype(jnp.uint32)
    links = len(plan.segments) - 1 if trips else 0
    return Tally(
      up=Counter.of(rows * jnp.uint32(up)),
      down=Counter.of(rows * jnp.uint32(down)),
      relayed=Counter.of(rows * jnp.uint32(relayed)),
      trips=Counter.of((rows > 0) * jnp.uint32(links)),
      examples=Counter.of(examples.astype(jnp.uint32)),
      exchanged=Counter.of(rows),
    )

  return step_tally


def pass_cost(plan: Plan, shapes: Sequence[Variables], outputs: Sequence[PyTree]) -> Cost:
  """Returns the bytes of a client in one pass over its data that recomputes running statistics.

  The client receives its parameters, sends the activations of every example (one step of the
  ``Cost``), and sends the moments of its norms: count, mean and sum of squared deviations. The
  arguments after the plan are the results of ``plan.segment_shapes``.
  """
  up = down = step_up = step_down = 0
  for index, (segment, output) in enumerate(zip(plan.segments, outputs, strict=True)):
    if segment.owner != ALICE:
      continue
    stats = shapes[index].get("batch_stats", {})
    layers = {path.rpartition("/")[0] for path in tree_leaves.flatten(stats)}
    up += tree_leaves.num_bytes(stats) + 4 * len(layers)
    down += tree_leaves.num_bytes(shapes[index].get("params", {}))
    if index:
      step_down += num_bytes(outputs[index - 1])
    if index < len(outputs) - 1:
      step_up += num_bytes(output)
  return Cost(up, down, step_up, step_down)
