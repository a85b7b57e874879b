"""Builds an ensemble of several models, each with a separate cut (paper 003, sec. 6)."""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_norm import models
from fedjax_norm.errors import UserError
from fedjax_norm.models.ensemble import Ensemble, Member
from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import NormSpec
from fedjax_norm.split.plan import make_plan


class MemberSpec(NamedTuple):
  """The specification of one member.

  Attributes:
    model: key of ``models.MODELS``.
    norm: norm of the member; between members only its groups can differ.
    cut: last stage of the client's head; None is the first stage with parameters.
    tail: last stage of the server in the U-shape; None has no tail.
  """

  model: str
  norm: NormSpec
  cut: str | None = None
  tail: str | None = None


def parse_members(text: str | None, norm: NormSpec) -> tuple[MemberSpec, ...]:
  """Parses ``--members``: MODEL:CUT or MODEL:CUT:TAIL of each member, with commas; None gives ().

  Raises:
    UserError: malformed text, or an unknown model.
  """
  specs = []
  for part in text.split(",") if text is not None else ():
    model, *cuts = (name.strip() for name in part.split(":"))
    if not 1 <= len(cuts) <= 2 or not all(cuts):
      raise UserError(
        f"--members has {part!r}; write each member as MODEL:CUT, or MODEL:CUT:TAIL in the U-shape."
      )
    models.entry(model)  # raises an error for an unknown model
    specs.append(MemberSpec(model, norm, *cuts))
  return tuple(specs)


def make_ensemble(
  specs: Sequence[MemberSpec],
  num_classes: int,
  image_shape: tuple[int, int, int],
  stem: str = "auto",
) -> Ensemble:
  """Returns an ensemble with the stages ``client``, ``server`` and, in the U-shape, ``tail``.

  Args:
    specs: the members.
    num_classes: number of outputs of each member.
    image_shape: (H, W, C).
    stem: stem of members that have several (see ``models.create``).

  Raises:
    UserError: fewer than two members, tails of only some members, or an impossible model or cut.
  """
  if len(specs) < 2:
    raise UserError(f"an ensemble of {len(specs)} has no majority; name two members or more.")
  if len({spec.tail is None for spec in specs}) > 1:
    raise UserError("some members of the ensemble have a tail and others none; give all or none.")
  members = []
  for spec in specs:
    model = models.create(spec.model, spec.norm, num_classes, image_shape, stem)
    if not isinstance(model, Staged):
      raise UserError(f"{spec.model!r} is no sequence of stages, so it cannot be cut; drop it.")
    plan = make_plan(model, image_shape, spec.cut, spec.tail)
    spans = tuple((segment.begin, segment.end) for segment in plan.segments)
    members.append(Member(model.clone, model.norm, spans))
  return Ensemble(specs[0].norm, tuple(members))
