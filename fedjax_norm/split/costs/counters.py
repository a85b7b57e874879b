"""What split learning sends and computes, counted within a program."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.ledger import Cost, Counter
from fedjax_norm.errors import UserError
from fedjax_norm.split.plan import ALICE, Plan, num_bytes
from fedjax_norm.typing import Array, PyTree, Variables


class Tally(NamedTuple):
  """What a turn has sent and computed.

  Attributes:
    up: bytes that Alice has sent.
    down: bytes that she has received.
    relayed: bytes that went between the other parties.
    trips: round trips.
    examples: that went through her head.
    exchanged: of them, those that crossed the cut.
  """

  up: Counter
  down: Counter
  relayed: Counter
  trips: Counter
  examples: Counter
  exchanged: Counter

  @classmethod
  def zeros(cls) -> "Tally":
    """Nothing."""
    return cls(*(Counter.of(0) for _ in cls._fields))

  def add(self, other: "Tally") -> "Tally":
    """The sum."""
    return Tally(*(a.add(b) for a, b in zip(self, other, strict=True)))


def make_step_tally(
  plan: Plan,
  outputs: Sequence[PyTree],
  label: jax.ShapeDtypeStruct,
  batch_size: int,
  *,
  trips: bool,
) -> Callable[[Array, Array], Tally]:
  """(examples of Alice's, those that crossed) -> the tally of one step.

  Only rows of real examples are sent; headers and encryption are left out.

  Args:
    plan: the segments.
    outputs: what each gives for one example, shapes.
    label: of one example.
    batch_size: the most examples of a step.
    trips: whether the clients' steps follow one another, so that each waits for its own trips.

  Raises:
    UserError: a step that sends 4 GiB or more.
  """
  up = down = relayed = 0
  told = 0 if plan.u_shaped else num_bytes(label)
  for before, after, output in zip(plan.segments, plan.segments[1:], outputs, strict=False):
    size = num_bytes(output)
    if before.owner == ALICE:
      up, down = up + size + told, down + size
    elif after.owner == ALICE:
      up, down = up + size, down + size
    else:
      relayed += 2 * size + told
  if max(up, down, relayed) * batch_size >= 2**32:
    raise UserError(
      f"a step of {batch_size} examples would send {max(up, down, relayed) * batch_size:,} bytes; "
      "cut the model elsewhere or take a smaller batch_size."
    )

  def step_tally(examples: Array, exchanged: Array) -> Tally:
    rows = exchanged.astype(jnp.uint32)
    waits = len(plan.segments) - 1 if trips else 0
    return Tally(
      up=Counter.of(rows * jnp.uint32(up)),
      down=Counter.of(rows * jnp.uint32(down)),
      relayed=Counter.of(rows * jnp.uint32(relayed)),
      trips=Counter.of((rows > 0) * jnp.uint32(waits)),
      examples=Counter.of(examples.astype(jnp.uint32)),
      exchanged=Counter.of(rows),
    )

  return step_tally


def pass_cost(plan: Plan, shapes: Sequence[Variables], outputs: Sequence[PyTree]) -> Cost:
  """What a client sends and receives while statistics are recomputed in one pass over its data.

  Alice gets her parameters, sends the activations of every example (a step of the cost), and the
  moments of her own norms: count, mean and m2. There are neither labels nor gradients.

  Args:
    plan: the segments.
    shapes: of each segment's variables.
    outputs: what each gives for one example, shapes.
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
