"""An ensemble put together from models, each of them cut in its own place (paper 003, sec. 6)."""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_norm import models
from fedjax_norm.errors import UserError
from fedjax_norm.models.ensemble import Ensemble, Member
from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import NormSpec
from fedjax_norm.split.plan import make_plan


class Choice(NamedTuple):
  """What is chosen of a member.

  Attributes:
    model: a key of ``models.MODELS``.
    norm: after its convolutions; members differ in its groups alone.
    cut: the last stage of its head; None is the first with parameters.
    tail: the last stage of its body in the U-shape; None has no tail.
  """

  model: str
  norm: NormSpec
  cut: str | None = None
  tail: str | None = None


def read(text: str | None, norm: NormSpec) -> tuple[Choice, ...]:
  """The members that a text names; none without a text.

  Args:
    text: MODEL:CUT or, in the U-shape, MODEL:CUT:TAIL of each member, with commas between.
    norm: of all of them.

  Raises:
    UserError: a text that is not written so, or an unknown model.
  """
  choices = []
  for part in text.split(",") if text is not None else ():
    model, *cuts = (name.strip() for name in part.split(":"))
    if not 1 <= len(cuts) <= 2 or not all(cuts):
      raise UserError(
        f"--members has {part!r}; write each member as MODEL:CUT, or MODEL:CUT:TAIL in the U-shape."
      )
    models.entry(model)  # refuses an unknown one
    choices.append(Choice(model, norm, *cuts))
  return tuple(choices)


def make_ensemble(
  choices: Sequence[Choice], num_classes: int, image_shape: tuple[int, int, int], stem: str = "auto"
) -> Ensemble:
  """Models side by side, which the split code cuts after ``client`` (and ``server``).

  Args:
    choices: the members.
    num_classes: outputs of each.
    image_shape: (H, W, C).
    stem: of the members that have several (see ``models.create``).

  Raises:
    UserError: fewer than two members, tails of some alone, or a member that cannot be made or cut
      so.
  """
  if len(choices) < 2:
    raise UserError(f"an ensemble of {len(choices)} has no majority; name two members or more.")
  if len({choice.tail is None for choice in choices}) > 1:
    raise UserError("some members of the ensemble have a tail and others none; give all or none.")
  members = []
  for choice in choices:
    model = models.create(choice.model, choice.norm, num_classes, image_shape, stem)
    if not isinstance(model, Staged):
      raise UserError(f"{choice.model!r} is no sequence of stages, so it cannot be cut; drop it.")
    plan = make_plan(model, image_shape, choice.cut, choice.tail)
    spans = tuple((segment.begin, segment.end) for segment in plan.segments)
    members.append(Member(model.clone, model.norm, spans))
  return Ensemble(choices[0].norm, tuple(members))
