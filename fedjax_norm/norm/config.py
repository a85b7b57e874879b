"""The options of a run's normalization."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.norm.spec import NAMES, NORMS, NormSpec, Renorm, create
from fedjax_norm.options import Options, option


def _norms(rule: Callable[[NormSpec], Any]) -> str:
  """Returns the ``needs`` of an option that only some norms have."""
  return "norm=" + ",".join(name for name, spec in NORMS.items() if rule(spec))


_GROUPED = _norms(lambda spec: spec.needs_groups)
_SCALING = _norms(lambda spec: spec.normalizes and spec.scale)
_AVERAGING = _norms(lambda spec: spec.has_running_statistics or spec.weight_norm)
_RENORM = _norms(lambda spec: spec.renorm)


@dataclasses.dataclass(frozen=True)
class NormConfig(Options):
  """The options of a model's normalization."""

  group = "normalization"

  norm: str = option("bn", "The normalization after each convolution.", choices=NAMES)
  groups: int | None = option(
    None,
    "Number of groups that the channels of a layer are divided into; a default of the model if "
    "neither this nor --group_size is given.",
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
    "Weight of the old value when a step updates running statistics (1 - PyTorch's momentum).",
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
    "Ramps of batch renormalization's bounds as three fractions of all rounds: the start of both "
    "ramps, the end of the ramp of d, the end of the ramp of r.",
    needs=_RENORM,
  )

  def check(self) -> None:
    """Raises UserError if the ramps are invalid or options contradict each other."""
    if len(self.brn_ramp) != 3 or not all(0 <= fraction <= 1 for fraction in self.brn_ramp):
      raise UserError("--brn_ramp takes three fractions from 0 to 1: start, end of d, end of r.")
    if self.brn_ramp[0] > min(self.brn_ramp[1:]):
      raise UserError("--brn_ramp must not end before its start; give the start first.")
    if self.groups is not None and self.group_size is not None:
      raise UserError("give --groups or --group_size, not both; they exclude each other.")
    if NORMS[self.norm].weight_norm and not self.mean_only_bn and self.norm_decay != NormSpec.decay:
      raise UserError("--norm_decay does nothing here: it needs --mean_only_bn; drop it or add it.")

  def make_norm(self, rounds: float) -> NormSpec:
    """Returns the normalization; the model chooses groups that are not given.

    Args:
      rounds: number of rounds of the run; the ramps of batch renormalization are fractions of it.
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
