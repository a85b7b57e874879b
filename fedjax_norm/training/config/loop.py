"""How long a run is and when it is evaluated."""

import dataclasses
from typing import Self

import numpy as np

from fedjax_norm import host_memory
from fedjax_norm.errors import UserError
from fedjax_norm.number_parsing import MAX_INT
from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class LoopConfig(Options):
  """The length of a run, when it is evaluated, and its random seed."""

  group = "training"

  rounds: int = option(600, "Rounds of communication.", least=1)
  eval_every: int = option(50, "Rounds between two evaluations.", least=1)
  cohort: int | None = option(
    None, "Clients that take part in a round; all of them if not given.", least=1
  )
  seed: int = option(
    0,
    "Seed of all random numbers: initialization, partition, cohorts, batches, dropout.",
    least=0,
    most=2**32 - 1,
  )

  def check(self) -> None:
    """Refuses a run that is too long for the host's memory."""
    if self.rounds is not None:  # of EpochsConfig it may follow from the data
      # The host keeps a rate, a theta and a cohort of each round.
      host_memory.check(64 * self.rounds, f"a run of {self.rounds:,} rounds", "choose fewer rounds")

  def resolve(self, round_examples: int, examples: int) -> Self:
    """The same with the lengths in force, in rounds; a second time changes nothing.

    Args:
      round_examples: the examples of a round.
      examples: the training examples of all clients.
    """
    del round_examples, examples
    return self

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
    if self.rounds * most > MAX_INT:
      raise UserError(
        f"{self.rounds:,} rounds of {most:,} local steps are more than the {MAX_INT:,} "
        "steps that can be counted; choose fewer."
      )
    seen = every * sum(np.sort(examples)[-(self.cohort or len(examples)) :].tolist())
    if seen > MAX_INT:
      raise UserError(
        f"{every:,} rounds between evaluations are up to {seen:,} examples, more than the "
        f"{MAX_INT:,} that can be counted; choose a smaller --eval_every."
      )

  def cohort_of(self, num_clients: int) -> int:
    """The number of clients a round in a population.

    Raises:
      UserError: the cohort is larger than the population.
    """
    if self.cohort and self.cohort > num_clients:
      raise UserError(
        f"a cohort of {self.cohort} cannot be drawn from {num_clients} clients; lower --cohort."
      )
    return self.cohort or num_clients
