"""Options of FixBN: the round of the freeze, and the training after the freeze (paper 002)."""

import dataclasses
import re
from typing import Any

from fedjax_norm import models
from fedjax_norm.control.freeze import Freeze
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.training.task.task import Task

_SHARE = re.compile(r"[1-9]\d?%")


@dataclasses.dataclass(frozen=True)
class FreezeConfig(Options):
  """Options of FixBN's freeze; the defaults freeze only the statistics (paper 002)."""

  group = "normalization"

  freeze_round: int | str = option(
    "half",
    "Round at which FixBN freezes its statistics (T*): a round number, a share of the rounds such "
    "as 25%, 'half' of them, or 'auto' (when the statistics have settled, at the latest after "
    "three quarters of the rounds).",
    needs="norm=fixbn",
  )
  freeze_lr_factor: float = option(
    1.0, "Factor on the learning rate after FixBN's freeze.", above=0, needs="norm=fixbn"
  )
  freeze_clip_norm: float | None = option(
    None,
    "Maximum L2 norm of a gradient after FixBN's freeze, to which larger gradients are clipped; 0 "
    "for no clipping; --clip_norm by default.",
    least=0,
    needs="norm=fixbn",
  )
  freeze_affine: bool = option(
    False, "Whether FixBN's freeze also freezes gamma and beta of the norms.", needs="norm=fixbn"
  )
  freeze_tolerance: float = option(
    0.1,
    "With --freeze_round=auto, the statistics have settled if they change by less than this many "
    "standard deviations between two measurements.",
    above=0,
    needs="freeze_round=auto",
  )

  def check(self) -> None:
    """Raises a UserError if ``freeze_round`` is an unknown word."""
    at = self.freeze_round
    if isinstance(at, str) and not (at in ("half", "auto") or _SHARE.fullmatch(at)):
      raise UserError(
        f"--freeze_round is {at!r}; give a round, a share from 1% to 99%, half or auto."
      )

  def freeze(self, rounds: int, window: int) -> Freeze:
    """Returns the freeze policy of a run (see ``control.freeze.Freeze`` for ``window``).

    Raises:
      UserError: the run is too short, or the freeze round is not inside the run.
    """
    if rounds < 2:
      raise UserError("FixBN needs a round before and after the freeze; use at least 2 --rounds.")
    if self.freeze_round == "auto":
      return Freeze(None, max(1, rounds * 3 // 4), self.freeze_tolerance, window=window)
    at = rounds // 2 if self.freeze_round == "half" else self.freeze_round
    if isinstance(at, str):
      at = max(1, rounds * int(at.removesuffix("%")) // 100)
    if not isinstance(at, int) or not 1 <= at < rounds:
      raise UserError(
        f"--freeze_round is {at!r}; give a round from 1 to {rounds - 1}, a share, half or auto."
      )
    return Freeze(at)


def calibration_config(task: Task, config: Any) -> Any:
  """Returns a method's options for the rounds after FixBN's freeze."""
  changes: dict[str, Any] = {}
  if config.freeze_clip_norm is not None:
    changes["clip_norm"] = config.freeze_clip_norm
  if config.freeze_affine:
    layers = models.norm_modules(task.model, task.image_shape)
    names = frozenset(f"{layer}/{name}" for layer in layers for name in ("scale", "bias"))
    changes["frozen_paths"] = config.frozen_paths | names
  return dataclasses.replace(config, **changes)
