"""The options of a run's normalization."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.norm.spec import NAMES, NORMS, NormSpec, Renorm, create
from fedjax_norm.options import Options, option


def _norms(rule: Callable[[NormSpec], Any]) -> str:
  """What an option needs that only some norms have."""
  return "norm=" + ",".join(name for name, spec in NORMS.items() if rule(spec))


_GROUPED = _norms(lambda spec: spec.needs_groups)
_SCALING = _norms(lambda spec: spec.normalizes and spec.scale)
_AVERAGING = _norms(lambda spec: spec.has_running_statistics or spec.weight_norm)
_RENORM = _norms(lambda spec: spec.renorm)


@dataclasses.dataclass(frozen=True)
class NormConfig(Options):
  """Which normalization a model has, and how it is set."""

  group = "normalization"

  norm: str = option("bn", "The normalization after each convolution.", choices=NAMES)
  groups: int | None = option(
    None,
    "Number of groups that the channels of a layer are divided into; the model's own choice of "
    "groups if neither this nor --group_size is given.",
    least=1,
    needs=_GROUPED,
  )
  group_size: int | None = option(
    None, "Number of channels in a group, instead of --groups.", least=1, needs=_GROUPED
  )
  mean_only_bn: bool = option(
    False,
    "Whether weight normalization also subtracts the mean of the batch.",
    needs=_norms(lambda spec: spec.weight_norm),
  )
  norm_decay: float = option(
    NormSpec.decay,
    "Weight of the old value when running statistics are updated in a step.",
    least=0,
    below=1,
    needs=_AVERAGING,
  )
  norm_epsilon: float = option(
    NormSpec.epsilon, "Constant added to the variances.", least=0, needs=_SCALING
  )
  brn_r_max: float = option(
    Renorm().r_max,
    "Final bound of batch renormalization's scale correction r.",
    least=1,
    needs=_RENORM,
  )
  brn_d_max: float = option(
    Renorm().d_max,
    "Final bound of batch renormalization's shift correction d.",
    least=0,
    needs=_RENORM,
  )
  brn_ramp: tuple[float, ...] = option(
    (0.04, 0.2, 0.3),
    "Ramps of batch renormalization's bounds as three fractions of all rounds: their start, the "
    "end of d's, the end of r's.",
    needs=_RENORM,
  )

  def check(self) -> None:
    """Refuses ramps that cannot be, and a decay without moving averages."""
    if len(self.brn_ramp) != 3 or not all(0 <= fraction <= 1 for fraction in self.brn_ramp):
      raise UserError("--brn_ramp takes three fractions from 0 to 1: start, end of d, end of r.")
    if self.brn_ramp[0] > min(self.brn_ramp[1:]):
      raise UserError("--brn_ramp begins with the start, which cannot come after the ends.")
    if self.groups is not None and self.group_size is not None:
      raise UserError("give --groups or --group_size, not both; they exclude each other.")
    if NORMS[self.norm].weight_norm and not self.mean_only_bn and self.norm_decay != NormSpec.decay:
      raise UserError("--norm_decay does nothing here: it needs --mean_only_bn; drop it or add it.")

  def make_norm(self, rounds: float) -> NormSpec:
    """The normalization; groups that are not given are left to the model.

    Args:
      rounds: of the whole run, which the ramps of batch renormalization are fractions of.
    """
    renorm = None
    if NORMS[self.norm].renorm:
      start, d_end, r_end = (fraction * rounds for fraction in self.brn_ramp)
      renorm = Renorm(self.brn_r_max, self.brn_d_max, start, r_end, d_end)
    return create(
      self.norm,
      groups=self.groups,
      group_size=self.group_size,
      mean_only_bn=self.mean_only_bn,
      renorm=renorm,
      decay=self.norm_decay,
      epsilon=self.norm_epsilon,
    )
