"""FixBN's freeze in a run: when it comes and what changes for the clients (paper 002)."""

import dataclasses
from typing import Any

from fedjax_norm import models
from fedjax_norm.control.freeze import Freeze
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.training.task.task import Task


@dataclasses.dataclass(frozen=True)
class FreezeConfig(Options):
  """FixBN's second stage (paper 002). By default the freeze changes the statistics alone."""

  group = "normalization"

  freeze_round: int | str = option(
    "half",
    "FixBN's T*: a round; half of the rounds; or auto, once the statistics are at rest, and after "
    "three quarters of the rounds at the latest.",
    needs="norm=fixbn",
  )
  freeze_lr_factor: float = option(
    1.0, "Multiplies the learning rate after the freeze.", above=0, needs="norm=fixbn"
  )
  freeze_clip_norm: float | None = option(
    None,
    "The greatest norm of a gradient after the freeze, 0 for no clipping; --clip_norm if not "
    "given.",
    least=0,
    needs="norm=fixbn",
  )
  freeze_affine: bool = option(False, "Whether gamma and beta freeze too.", needs="norm=fixbn")
  freeze_tolerance: float = option(
    0.1,
    "The movement of the statistics, in standard deviations, that counts as rest.",
    above=0,
    needs="freeze_round=auto",
  )

  def check(self) -> None:
    """Refuses a word that names no round."""
    if isinstance(self.freeze_round, str) and self.freeze_round not in ("half", "auto"):
      raise UserError(f"--freeze_round is {self.freeze_round!r}; give a round, half or auto.")

  def freeze(self, rounds: int, window: int) -> Freeze:
    """The policy of a run.

    Args:
      rounds: of the run.
      window: rounds between two looks at the statistics, for ``'auto'``.

    Raises:
      UserError: a round outside the run.
    """
    if rounds < 2:
      raise UserError("FixBN needs a round before the freeze and one after; run at least 2 rounds.")
    if self.freeze_round == "auto":
      return Freeze(None, max(1, rounds * 3 // 4), self.freeze_tolerance, window=window)
    at = rounds // 2 if self.freeze_round == "half" else self.freeze_round
    if not isinstance(at, int) or not 1 <= at < rounds:
      raise UserError(
        f"the freeze at round {at!r} must lie inside the run: 1 to {rounds - 1}, 'half' or 'auto'."
      )
    return Freeze(at)


def calibration_config(task: Task, config: Any) -> Any:
  """A method's options after the freeze.

  Args:
    task: whose model's norms may freeze.
    config: before it: those of ``LocalConfig`` and of :class:`FreezeConfig`.
  """
  changes: dict[str, Any] = {}
  if config.freeze_clip_norm is not None:
    changes["clip_norm"] = config.freeze_clip_norm
  if config.freeze_affine:
    layers = models.norm_modules(task.model, task.image_shape)
    names = frozenset(f"{layer}/{name}" for layer in layers for name in ("scale", "bias"))
    changes["frozen_paths"] = config.frozen_paths | names
  return dataclasses.replace(config, **changes)
