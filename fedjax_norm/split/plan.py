"""Divides the stages of a model among the parties (paper 003, figures 1 and 2, sec. 6)."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged, position, stage_names
from fedjax_norm.models.stages import describe as stage_infos
from fedjax_norm.norm import Mode
from fedjax_norm.tree_leaves import flatten, unflatten
from fedjax_norm.typing import PyTree, Variables

ALICE, BOB = "alice", "bob"
"""Paper 003's names of a client and of the server."""


class Segment(NamedTuple):
  """A range of consecutive stages that one party computes.

  Attributes:
    owner: ``alice`` (the client that trains), ``bob`` (the server), or a relay ``eve0``, ``eve1``.
    begin: index of the first stage.
    end: index after the last stage.
  """

  owner: str
  begin: int
  end: int


class Plan(NamedTuple):
  """The division of a model among client, server and relays.

  Attributes:
    segments: all segments in the order of the forward pass. The client computes the first segment
      (its head), the server the last one; in the U-shape the client computes the last one (its
      tail).
  """

  segments: tuple[Segment, ...]

  @property
  def u_shaped(self) -> bool:
    """Whether the client computes the last stages, so that labels never leave it (sec. 3.6)."""
    return self.segments[-1].owner == ALICE

  def owned_by(self, owner: str) -> tuple[int, ...]:
    """Returns the indices in ``segments`` of a party's segments."""
    return tuple(i for i, segment in enumerate(self.segments) if segment.owner == owner)


def make_plan(
  model: Staged,
  image_shape: tuple[int, int, int],
  cut: str | None = None,
  tail: str | None = None,
  relays: Sequence[str] = (),
) -> Plan:
  """Divides a model into the segments of client, server and relays.

  Args:
    model: the whole model.
    image_shape: (H, W, C).
    cut: last stage of the client's head F_a; None is the first stage with parameters.
    tail: last stage of the server in the U-shape, after which the client's tail begins; None gives
      the server all stages after the cut.
    relays: last stage of each relay Eve_0, Eve_1, ... between client and server (sec. 6).

  Raises:
    UserError: the model cannot be cut there, there is only one relay, or relays with a tail.
  """
  if tail is not None and relays:
    raise UserError(
      "relays hide the clients from the server, but a tail would make the server send outputs to "
      "the clients; drop the tail or the relays."
    )
  if len(relays) == 1:
    raise UserError(
      "a single relay would see both ends, client and server, and could link them; name two or "
      "more relays, or none."
    )
  if cut is None:
    cut = next(info.name for info in stage_infos(model, image_shape) if info.parametric)
  names = [cut, *relays, *([tail] if tail is not None else [])]
  bounds = [position(model, name, image_shape) for name in names]
  if sorted(set(bounds)) != bounds:
    raise UserError(
      f"the cuts {', '.join(names)} are not in the order of the model's stages, which are "
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
  """Returns the shapes of each segment's variables and of its output for one example.

  Args:
    model: the whole model; its norm must be bound to no axis.
    plan: the segments of the model.
    image: (H, W, C) and the dtype that the model computes in.
  """
  variables, outputs = [], []
  x: PyTree = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
  for segment in plan.segments:

    def run(x: PyTree, segment: Segment = segment) -> tuple[PyTree, Any]:
      key = jax.random.key(0)
      return model.init_with_output(key, x, Mode(), segment.begin, segment.end)

    x, created = jax.eval_shape(run, x)
    variables.append({k: created[k] for k in ("params", "batch_stats") if k in created})
    outputs.append(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x))
  return variables, outputs


def divide(variables: Variables, shapes: Sequence[Variables]) -> tuple[Variables, ...]:
  """Divides a model's variables into those of each segment, as in ``shapes``; reverses ``join``."""
  flat = flatten(variables)
  return tuple(unflatten({path: flat[path] for path in flatten(part)}) for part in shapes)


def join(parts: Sequence[Variables]) -> Variables:
  """Merges the variables of all segments into those of the whole model; reverses ``divide``."""
  return unflatten({k: v for part in parts for k, v in flatten(part).items()})


def num_bytes(shapes: PyTree) -> int:
  """Returns the total bytes of tensors with the given shapes and dtypes."""
  return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(shapes))


def describe(
  model: Staged, plan: Plan, shapes: Sequence[Variables], outputs: Sequence[PyTree]
) -> list[tuple[str, str]]:
  """Returns a (party, text) pair for each segment; the text has its stages, parameters and bytes.

  The arguments after the plan are the results of :func:`segment_shapes`.
  """
  names, lines = stage_names(model), []
  items = zip(plan.segments, shapes, outputs, strict=True)
  for index, (segment, variables, output) in enumerate(items):
    first, last = names[segment.begin], names[segment.end - 1]
    count = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
    sent = "" if index == len(shapes) - 1 else f", sends {num_bytes(output):,} bytes an example"
    span = first if first == last else f"{first} to {last}"
    lines.append((segment.owner, f"{span}, {count:,} parameters{sent}"))
  return lines
