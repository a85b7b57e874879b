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
  """The specification of one model of an ensemble.

  Attributes:
    model: name of the model, a key of ``models.MODELS``.
    norm: norm of the model; models of one ensemble can differ only in the norm's groups.
    cut: last stage of the client's head; None is the first stage with parameters.
    tail: last stage of the server in the U-shape; None gives the server all stages after the cut.
  """

  model: str
  norm: NormSpec
  cut: str | None = None
  tail: str | None = None


def parse_members(text: str | None, norm: NormSpec) -> tuple[MemberSpec, ...]:
  """Parses ``--members``, a list of MODEL:CUT or MODEL:CUT:TAIL with commas; None gives ().

  Raises:
    UserError: an entry has another form, or its model is unknown.
  """
  specs = []
  for part in text.split(",") if text is not None else ():
    model, *cuts = (name.strip() for name in part.split(":"))
    if not 1 <= len(cuts) <= 2 or not all(cuts):
      raise UserError(
        f"--members has {part!r}; write each model as MODEL:CUT, or MODEL:CUT:TAIL in the U-shape."
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
    specs: the models of the ensemble.
    num_classes: number of outputs of each model.
    image_shape: (H, W, C).
    stem: stem of the models that have several (see ``models.create``).

  Raises:
    UserError: there are fewer than two models, only some have a tail, or one cannot be cut so.
  """
  if len(specs) < 2:
    raise UserError(f"a vote needs two or more models, but --members has {len(specs)}; add some.")
  if len({spec.tail is None for spec in specs}) > 1:
    raise UserError("--members has models with and without a tail; give a tail to all or to none.")
  members = []
  for spec in specs:
    model = models.create(spec.model, spec.norm, num_classes, image_shape, stem)
    if not isinstance(model, Staged):
      raise UserError(
        f"{spec.model!r} is not a sequence of stages, so it cannot be cut; name another model."
      )
    plan = make_plan(model, image_shape, spec.cut, spec.tail)
    spans = tuple((segment.begin, segment.end) for segment in plan.segments)
    members.append(Member(model.clone, model.norm, spans))
  return Ensemble(specs[0].norm, tuple(members))
