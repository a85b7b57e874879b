"""How long a run is and when it looks up."""

import dataclasses

import numpy as np

from fedjax_norm import memory, numerals
from fedjax_norm.errors import UserError


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """How long a run is and when it looks up.

  Attributes:
    rounds: of the whole run.
    eval_every: rounds between two evaluations.
    cohort: clients a round; 0 is all of them.
    seed: of everything random in the run, below 2^32.
  """

  rounds: int
  eval_every: int
  cohort: int = 0
  seed: int = 0

  def __post_init__(self):
    for field in ("rounds", "eval_every"):
      if getattr(self, field) < 1:
        raise UserError(f"{field} is {getattr(self, field)}; it must be at least 1.")
    for field in ("cohort", "seed"):
      if getattr(self, field) < 0:
        raise UserError(f"{field} is {getattr(self, field)}; it must be 0 or more.")

    # The host keeps a rate, a theta and a cohort of each round.
    memory.check(64 * self.rounds, f"a run of {self.rounds:,} rounds", "choose fewer rounds")
    if self.seed >= 2**32:
      raise UserError(f"seed is {self.seed}; it must be below 2^32.")

  def check_counts(self, steps: np.ndarray, examples: np.ndarray) -> None:
    """Refuses a run of more local steps or examples than programs count, in int32.

    Args:
      steps: of each client that can take part in a round, int64.
      examples: that each of them sees in a round, at the most, int64.

    Raises:
      UserError: the whole run has too many steps, or the rounds between two evaluations have too
        many examples.
    """
    most, every = int(steps.max()), min(self.eval_every, self.rounds)
    if self.rounds * most > numerals.MOST:
      raise UserError(
        f"{self.rounds:,} rounds of {most:,} local steps are more than the {numerals.MOST:,} steps "
        "that can be counted; choose fewer."
      )
    seen = every * sum(np.sort(examples)[-(self.cohort or len(examples)) :].tolist())
    if seen > numerals.MOST:
      raise UserError(
        f"{every:,} rounds between evaluations are up to {seen:,} examples, more than the "
        f"{numerals.MOST:,} that can be counted; choose a smaller eval_every."
      )

  def cohort_of(self, num_clients: int) -> int:
    """The number of clients a round in a population.

    Raises:
      UserError: the cohort is larger than the population.
    """
    if self.cohort > num_clients:
      raise UserError(f"a cohort of {self.cohort} cannot be drawn from {num_clients} clients.")
    return self.cohort or num_clients
