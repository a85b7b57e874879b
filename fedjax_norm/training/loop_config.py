"""How long a run is and when it looks up."""

import dataclasses

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

    if self.seed >= 2**32:
      raise UserError(f"seed is {self.seed}; it must be below 2^32.")

  def cohort_of(self, num_clients: int) -> int:
    """The number of clients a round in a population.

    Raises:
      UserError: the cohort is larger than the population.
    """
    if self.cohort > num_clients:
      raise UserError(f"a cohort of {self.cohort} cannot be drawn from {num_clients} clients.")
    return self.cohort or num_clients
