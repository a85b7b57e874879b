"""Learning rates over rounds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.errors import UserError

SCHEDULES = ("constant", "cosine", "step", "polynomial", "exponential")


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The learning rate by round, of FedAvg's clients or of the master.

  Attributes:
    rate: the base rate.
    kind: of ``SCHEDULES``.
    warmup_rounds: rounds of linear warm-up, from ``warmup_from`` to the base rate; the schedule
      goes on underneath.
    boundaries: where ``step`` multiplies the rate by ``factor``: rounds, or shares of the run
      between 0 and 1.
    factor: of ``step`` at each boundary; of ``exponential`` over the whole run.
    power: of ``polynomial``: rate (1 - round / rounds)^power (paper 004, tables 3 and 5).
    warmup_from: the rate that the warm-up rises from.
  """

  rate: float
  kind: str = "constant"
  warmup_rounds: int = 0
  boundaries: tuple[float, ...] = ()
  factor: float = 0.1
  power: float = 1.0
  warmup_from: float = 0.0

  def __post_init__(self):
    if self.kind not in SCHEDULES:
      raise UserError(f"unknown schedule {self.kind!r}; choose one of {', '.join(SCHEDULES)}.")
    if not (np.isfinite(self.rate) and self.rate > 0):
      raise UserError(f"the learning rate is {self.rate}; it must be a positive number.")
    if self.warmup_rounds < 0:
      raise UserError(f"the warm-up takes {self.warmup_rounds} rounds; it must be 0 or more.")
    if (self.kind == "step") != bool(self.boundaries):
      raise UserError("the step schedule and its boundaries go together; give both or neither.")
    if list(self.boundaries) != sorted(set(self.boundaries)) or not all(
      0 < b < np.inf for b in self.boundaries
    ):
      raise UserError(f"the boundaries {self.boundaries} must be positive and rising.")
    if not all(b < 1 for b in self.boundaries) and any(b % 1 for b in self.boundaries):
      raise UserError(
        f"the boundaries {self.boundaries} must be whole rounds, or all be shares of the run "
        "between 0 and 1."
      )
    if not self.factor > 0 or not self.power > 0:
      raise UserError("a schedule's factor and power must be positive.")
    if not 0 <= self.warmup_from < self.rate:
      raise UserError(
        f"the warm-up rises from {self.warmup_from} to {self.rate}; it must begin at 0 or more and "
        "below the rate."
      )

  def rates(self, rounds: int) -> np.ndarray:
    """The rate of every round: [rounds] float32."""
    match self.kind:
      case "constant":
        schedule = optax.constant_schedule(self.rate)
      case "cosine":
        schedule = optax.cosine_decay_schedule(self.rate, rounds)
      case "step":
        scales: dict[int, float] = {}  # in a short run several shares may meet in one round
        for boundary in self.boundaries:
          inside = min(max(1, round(boundary * rounds)), rounds - 1)  # a share always takes effect
          at = inside if boundary < 1 else int(boundary)
          scales[at] = scales.get(at, 1.0) * self.factor
        schedule = optax.piecewise_constant_schedule(self.rate, scales)
      case "polynomial":
        schedule = optax.polynomial_schedule(self.rate, 0.0, self.power, rounds)
      case _:
        schedule = optax.exponential_decay(self.rate, rounds, self.factor)
    index = jnp.arange(rounds)
    rates = jnp.broadcast_to(jax.vmap(schedule)(index), (rounds,))
    if self.warmup_rounds:
      share, least = (index + 1) / self.warmup_rounds, self.warmup_from / self.rate
      rates *= jnp.minimum(1.0, least + (1 - least) * share)
    return np.asarray(rates, np.float32)
