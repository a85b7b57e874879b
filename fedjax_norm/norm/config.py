"""The command-line options of the normalization."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.norm.spec import NAMES, NORMS, NormSpec, Renorm, create
from fedjax_norm.options import Options, option


def _norms(rule: Callable[[NormSpec], Any]) -> str:
  """Returns the argument ``needs`` of an option that only the norms with this property have."""
  return "norm=" + ",".join(name for name, spec in NORMS.items() if rule(spec))


_GROUPED = _norms(lambda spec: spec.needs_groups)
_SCALING = _norms(lambda spec: spec.normalizes and spec.scale)
_AVERAGING = _norms(lambda spec: spec.has_running_statistics or spec.weight_norm)
_RENORM = _norms(lambda spec: spec.renorm)


@dataclasses.dataclass(frozen=True)
class NormConfig(Options):
  """The options of the norm after each convolution of a model."""

  group = "normalization"

  norm: str = option(
    "bn",
    "Norm after each convolution. Statistics of a batch: bn (running statistics in tests), sync_bn "
    "(the batches of all clients together), fixbn (freezes the running statistics at "
    "--freeze_round), brn (batch renormalization), bgn (groups of channels). Of one example: gn "
    "(groups of channels), ln (all channels), in (each channel), cn (all channels at a position). "
    "Without statistics: wn (weight normalization), fixup (initialization and scalars that replace "
    "the norms of a ResNet), none.",
    choices=NAMES,
  )
  groups: int | None = option(
    None,
    "Number of groups into which the channels of a layer are divided. Without it and --group_size, "
    "the model's default is used.",
    least=1,
    needs=_GROUPED,
  )
  group_size: int | None = option(
    None, "Number of channels per group, as an alternative to --groups.", least=1, needs=_GROUPED
  )
  mean_only_bn: bool = option(
    False,
    "Also subtract the batch's mean after each weight-normalized convolution (Salimans and Kingma "
    "2016, sec. 2.3).",
    needs=_norms(lambda spec: spec.weight_norm),
  )
  norm_decay: float = option(
    NormSpec.decay,
    "Weight of the old running statistics when a step updates them (1 - PyTorch's momentum).",
    least=0,
    below=1,
    needs=_AVERAGING,
  )
  norm_epsilon: float = option(
    NormSpec.epsilon, "Constant that is added to each variance.", least=0, needs=_SCALING
  )
  brn_r_max: float = option(
    Renorm().r_max,
    "Final limit r_max of batch renormalization's scale correction: 1 / r_max <= r <= r_max.",
    least=1,
    needs=_RENORM,
  )
  brn_d_max: float = option(
    Renorm().d_max,
    "Final limit d_max of batch renormalization's shift correction: -d_max <= d <= d_max.",
    least=0,
    needs=_RENORM,
  )
  brn_ramp: tuple[float, ...] = option(
    (0.04, 0.2, 0.3),
    "When batch renormalization starts to correct bn, as three fractions of all rounds. Until the "
    "first it equals bn; then its limits rise linearly, to --brn_d_max at the second and to "
    "--brn_r_max at the third.",
    needs=_RENORM,
  )

  def check(self) -> None:
    """Raises UserError if ``brn_ramp`` is invalid or two options contradict each other."""
    if len(self.brn_ramp) != 3 or not all(0 <= fraction <= 1 for fraction in self.brn_ramp):
      raise UserError(
        "--brn_ramp takes three fractions from 0 to 1: the start, the end for d, the end for r."
      )
    if self.brn_ramp[0] > min(self.brn_ramp[1:]):
      raise UserError("--brn_ramp must not end before its start; give the smallest fraction first.")
    if self.groups is not None and self.group_size is not None:
      raise UserError("give --groups or --group_size, not both: each of them determines the other.")
    if NORMS[self.norm].weight_norm and not self.mean_only_bn and self.norm_decay != NormSpec.decay:
      raise UserError(
        "--norm_decay does nothing here: it needs --mean_only_bn; drop --norm_decay or add "
        "--mean_only_bn."
      )

  def make_norm(self, rounds: float) -> NormSpec:
    """Returns the norm of a run of ``rounds`` rounds, of which ``brn_ramp`` gives fractions."""
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
