"""Options of the learning rate and its schedule over the rounds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.control.plateau import Plateau
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option

SCHEDULES = ("constant", "cosine", "step", "polynomial", "exponential", "plateau")


@dataclasses.dataclass(frozen=True)
class Schedule(Options):
  """The learning rate of each round: of the clients' local steps, or of the joint model's steps."""

  group = "training"

  lr: float = option(0.02, "Learning rate of training steps.", above=0)
  lr_schedule: str = option(
    "constant",
    "How the learning rate changes over the rounds: constant; cosine and polynomial fall to 0; "
    "step falls at --lr_boundaries; exponential falls to --lr times --lr_factor; plateau falls "
    "when the training loss stops falling.",
    choices=SCHEDULES,
  )
  lr_warmup_rounds: int = option(
    0,
    "Number of rounds at the start in which the learning rate rises linearly from --lr_warmup_from "
    "to the value of --lr_schedule; 0 for no warm-up.",
    least=0,
  )
  lr_boundaries: tuple[float, ...] = option(
    (),
    "With --lr_schedule=step, the times at which the learning rate is multiplied by --lr_factor: "
    "rounds, or shares of the run such as 0.5,0.75.",
    needs="lr_schedule=step",
  )
  lr_factor: float = option(
    0.1,
    "Factor on the learning rate with --lr_schedule=step (at each of --lr_boundaries), exponential "
    "(over the whole run) or plateau (after --lr_patience evaluations).",
    above=0,
    needs="lr_schedule=step,exponential,plateau",
  )
  lr_power: float = option(
    1.0,
    "Power with which --lr_schedule=polynomial falls to 0; 1 is linear.",
    above=0,
    needs="lr_schedule=polynomial",
  )
  lr_warmup_from: float | None = option(
    None,
    "Learning rate at the start of the warm-up; by default 0, or --lr if --scale_lr_from raises "
    "the rate.",
    least=0,
  )
  lr_patience: int = option(
    3,
    "Number of consecutive evaluations without a lower training loss after which "
    "--lr_schedule=plateau lowers the learning rate.",
    least=1,
    needs="lr_schedule=plateau",
  )

  @property
  def follows_data(self) -> bool:
    """Whether the learning rate or the run length depends on the data."""
    return False

  @property
  def warms_up(self) -> bool:
    """Whether the learning rate has a warm-up."""
    return bool(self.lr_warmup_rounds)

  def check(self) -> None:
    """Raises a UserError if the boundaries, the warm-up or the plateau factor are invalid."""
    at = self.lr_boundaries
    shown = ",".join(f"{boundary:g}" for boundary in at)
    if self.lr_schedule == "step" and not at:
      raise UserError("--lr_schedule=step needs --lr_boundaries; give at least one.")
    if list(at) != sorted(set(at)) or not all(0 < b < np.inf for b in at):
      raise UserError(f"--lr_boundaries is {shown}; give positive numbers in rising order.")
    if not all(b < 1 for b in at) and any(b % 1 for b in at):
      raise UserError(
        f"--lr_boundaries is {shown}; give only whole rounds, or only shares of the run below 1."
      )
    if self.lr_warmup_from is not None:
      if not self.warms_up:
        raise UserError(
          "--lr_warmup_from has no effect without a warm-up; drop it or give --lr_warmup_rounds."
        )
      if self.lr_warmup_from >= self.lr and not self.follows_data:
        raise UserError(
          f"--lr_warmup_from is {self.lr_warmup_from:g}; it must be below the rate {self.lr:g}."
        )
    if self.lr_schedule == "plateau" and self.lr_factor >= 1:
      raise UserError(
        f"--lr_factor is {self.lr_factor:g}; give a factor below 1 for --lr_schedule=plateau."
      )

  def plateau(self) -> Plateau | None:
    """Returns the policy of the plateau schedule; None for other schedules."""
    if self.lr_schedule != "plateau":
      return None
    return Plateau(self.lr_factor, self.lr_patience, start=self.lr_warmup_rounds)

  def check_rounds(self, rounds: int) -> None:
    """Raises a UserError if one of ``lr_boundaries`` or the warm-up is after the last round."""
    if self.lr_boundaries and max(self.lr_boundaries) >= rounds:
      raise UserError(
        f"--lr_boundaries has round {max(self.lr_boundaries):g}, which a run of {rounds} rounds "
        "never reaches; lower it or raise --rounds."
      )
    if self.lr_warmup_rounds > rounds:
      raise UserError(
        f"--lr_warmup_rounds is {self.lr_warmup_rounds}, and the run has {rounds}; shorten it."
      )

  def rates(self, rounds: int) -> np.ndarray:
    """Returns the learning rate of every round, [rounds] float32, without the plateau's factor."""
    self.check_rounds(rounds)
    match self.lr_schedule:
      case "constant" | "plateau":
        schedule = optax.constant_schedule(self.lr)
      case "cosine":
        schedule = optax.cosine_decay_schedule(self.lr, rounds)
      case "step":
        scales: dict[int, float] = {}  # in a short run, several shares can fall in one round
        for boundary in self.lr_boundaries:
          inside = min(max(1, round(boundary * rounds)), rounds - 1)  # a share always takes effect
          at = inside if boundary < 1 else int(boundary)
          scales[at] = scales.get(at, 1.0) * self.lr_factor
        schedule = optax.piecewise_constant_schedule(self.lr, scales)
      case "polynomial":
        schedule = optax.polynomial_schedule(self.lr, 0.0, self.lr_power, rounds)
      case _:
        schedule = optax.exponential_decay(self.lr, rounds, self.lr_factor)
    index = jnp.arange(rounds)
    rates = jnp.broadcast_to(jax.vmap(schedule)(index), (rounds,))
    if self.lr_warmup_rounds:
      share = (index + 1) / self.lr_warmup_rounds
      least = (self.lr_warmup_from or 0.0) / self.lr
      rates *= jnp.minimum(1.0, least + (1 - least) * share)
    return np.asarray(rates, np.float32)
