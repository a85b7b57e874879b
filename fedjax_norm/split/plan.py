"""Who holds which stages of a model (paper 003, figures 1 and 2, sec. 6)."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_norm import tree_leaves
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged, position, stage_names
from fedjax_norm.models.stages import describe as stage_infos
from fedjax_norm.norm import Mode
from fedjax_norm.typing import PyTree, Variables

ALICE, BOB = "alice", "bob"


class Segment(NamedTuple):
  """Stages that one party holds.

  Attributes:
    owner: ``alice`` (whichever client's turn it is), ``bob``, or a relay ``eve0``, ``eve1``, ...
    begin: the first stage.
    end: the stage after the last.
  """

  owner: str
  begin: int
  end: int


class Plan(NamedTuple):
  """The segments of a model in order: F_a, F_b and whatever lies around them.

  Attributes:
    segments: Alice's first; the last is Bob's, or Alice's own tail in the U-shape.
  """

  segments: tuple[Segment, ...]

  @property
  def u_shaped(self) -> bool:
    """Whether the last stages are Alice's, so that no label leaves her (sec. 3.6)."""
    return self.segments[-1].owner == ALICE

  def owned_by(self, owner: str) -> tuple[int, ...]:
    """The places of a party's segments."""
    return tuple(i for i, segment in enumerate(self.segments) if segment.owner == owner)


def make_plan(
  model: Staged,
  image_shape: tuple[int, int, int],
  cut: str | None = None,
  tail: str | None = None,
  relays: Sequence[str] = (),
) -> Plan:
  """Cuts a model.

  Args:
    model: the whole.
    image_shape: (H, W, C).
    cut: the last stage of Alice's head F_a; None is the first with parameters.
    tail: the last stage of Bob's body in the U-shape; what follows is Alice's tail. None leaves
      all that follows the cut to Bob.
    relays: the last stage of each relay Eve_0, Eve_1, ... between Alice and Bob (sec. 6).

  Raises:
    UserError: a cut that cannot be, or relays that hide nothing.
  """
  if tail is not None and relays:
    raise UserError(
      "relays hide Alice from Bob, who in the U-shape would send his outputs back to her; drop the "
      "tail or the relays."
    )
  if len(relays) == 1:
    raise UserError(
      "a single relay would be the neighbour of Alice and of Bob and see both ends; name two or "
      "more, or none."
    )
  if cut is None:
    cut = next(info.name for info in stage_infos(model, image_shape) if info.parametric)
  names = [cut, *relays, *([tail] if tail is not None else [])]
  bounds = [position(model, name, image_shape) for name in names]
  if sorted(set(bounds)) != bounds:
    raise UserError(
      f"the cuts {', '.join(names)} do not follow one another; the stages of the model are "
      f"{', '.join(stage_names(model))}."
    )
  owners = [ALICE, *(f"eve{i}" for i in range(len(relays))), BOB]
  owners += [ALICE] if tail is not None else []
  edges = [0, *bounds, len(stage_names(model))]
  spans = zip(owners, itertools.pairwise(edges), strict=True)
  return Plan(tuple(Segment(owner, *span) for owner, span in spans))


def segment_shapes(
  model: Staged, plan: Plan, image: jax.ShapeDtypeStruct
) -> tuple[list[Variables], list[PyTree]]:
  """The shapes of each segment's variables, and of what it gives for one example.

  Args:
    model: the whole, its norm bound to no axis.
    plan: its cuts.
    image: (H, W, C) and the dtype that the model computes in.
  """
  variables, outputs = [], []
  x: PyTree = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
  for segment in plan.segments:

    def run(x, segment=segment):
      key = jax.random.key(0)
      return model.init_with_output(key, x, Mode(), segment.begin, segment.end)

    x, held = jax.eval_shape(run, x)
    variables.append({name: held[name] for name in ("params", "batch_stats") if name in held})
    outputs.append(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x))
  return variables, outputs


def divide(variables: Variables, shapes: Sequence[Variables]) -> tuple[Variables, ...]:
  """The parts of a model's variables.

  Args:
    variables: of the whole.
    shapes: what each part holds, as of :func:`segment_shapes`.
  """
  flat = tree_leaves.flatten(variables)
  return tuple(
    tree_leaves.unflatten({path: flat[path] for path in tree_leaves.flatten(part)})
    for part in shapes
  )


def join(parts: Sequence[Variables]) -> Variables:
  """The whole's variables; the inverse of :func:`divide`."""
  return tree_leaves.unflatten(
    {k: v for part in parts for k, v in tree_leaves.flatten(part).items()}
  )


def num_bytes(shapes: PyTree) -> int:
  """The bytes of an example's tensors."""
  return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(shapes))


def describe(
  model: Staged, plan: Plan, shapes: Sequence[Variables], outputs: Sequence[PyTree]
) -> list[tuple[str, str]]:
  """Who holds what and sends how much, a line each.

  Args:
    model: the whole.
    plan: who holds what.
    shapes: of each segment's variables.
    outputs: what each gives for one example.
  """
  names, lines = stage_names(model), []
  for index, (segment, held, output) in enumerate(zip(plan.segments, shapes, outputs, strict=True)):
    first, last = names[segment.begin], names[segment.end - 1]
    count = optax.tree.size(held.get("params", {}))
    sent = "" if index == len(shapes) - 1 else f", sends {num_bytes(output):,} bytes an example"
    span = first if first == last else f"{first} to {last}"
    lines.append((segment.owner, f"{span}, {count:,} parameters{sent}"))
  return lines
