"""FixBN's freeze in a run: when it comes and what changes for the clients (paper 002)."""

import dataclasses
from typing import Any

from fedjax_norm import models
from fedjax_norm.control.freeze import Freeze
from fedjax_norm.errors import UserError
from fedjax_norm.training.task import Task


@dataclasses.dataclass(frozen=True)
class FreezeConfig:
  """FixBN's second stage (paper 002). By default the freeze changes the statistics alone.

  Attributes:
    round: T*: a round, ``'half'`` of them, or ``'auto'``: once the statistics are at rest, and at
      three quarters of the rounds at the latest.
    rate_factor: multiplies the learning rate after the freeze.
    clip_norm: the greatest norm of a gradient after the freeze, 0 for no clipping; None keeps the
      clipping as it was.
    affine: whether gamma and beta freeze too.
    tolerance: of ``'auto'``, in standard deviations (see ``control.Freeze``).
  """

  round: int | str = "half"
  rate_factor: float = 1.0
  clip_norm: float | None = None
  affine: bool = False
  tolerance: float = 0.1

  def __post_init__(self):
    if not self.rate_factor > 0 or not self.tolerance > 0:
      raise UserError("the freeze's rate_factor and tolerance must be positive.")
    if self.clip_norm is not None and not self.clip_norm >= 0:
      raise UserError(f"the freeze's clip_norm is {self.clip_norm}; it must be 0 or more.")

  def policy(self, rounds: int, window: int) -> Freeze:
    """The policy of a run.

    Args:
      rounds: of the run.
      window: rounds between two looks at the statistics, for ``'auto'``.

    Raises:
      UserError: a round outside the run.
    """
    if rounds < 2:
      raise UserError("FixBN needs a round before the freeze and one after; run at least 2 rounds.")
    if self.round == "auto":
      return Freeze(None, max(1, rounds * 3 // 4), self.tolerance, window=window)
    at = rounds // 2 if self.round == "half" else self.round
    if not isinstance(at, int) or not 1 <= at < rounds:
      raise UserError(
        f"the freeze at round {at!r} must lie inside the run: 1 to {rounds - 1}, 'half' or 'auto'."
      )
    return Freeze(at)


def calibrating(task: Task, config: Any, freeze: FreezeConfig) -> Any:
  """An algorithm's configuration after the freeze.

  Args:
    task: whose model's norms may freeze.
    config: before it, with a ``local``.
    freeze: what changes.
  """
  local = config.local
  if freeze.clip_norm is not None:
    local = dataclasses.replace(local, clip_norm=freeze.clip_norm)
  if freeze.affine:
    layers = models.norm_modules(task.model, task.image_shape)
    frozen = frozenset(f"{layer}/{name}" for layer in layers for name in ("scale", "bias"))
    local = dataclasses.replace(local, frozen_paths=frozen)
  return dataclasses.replace(config, local=local)
