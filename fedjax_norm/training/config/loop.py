"""Options of the training loop."""

import dataclasses
from typing import Self

import numpy as np

from fedjax_norm import host_memory
from fedjax_norm.errors import UserError
from fedjax_norm.number_parsing import MAX_INT
from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class LoopConfig(Options):
  """Number of rounds, rounds between evaluations, cohort size and seed of a run."""

  group = "training"

  rounds: int = option(600, "Number of communication rounds.", least=1)
  eval_every: int = option(50, "Rounds between two evaluations of the model.", least=1)
  cohort: int | None = option(
    None, "Number of clients sampled for each round; by default all clients.", least=1
  )
  seed: int = option(
    0,
    "Seed of all random numbers, such as for initialization, partition, cohorts and batches.",
    least=0,
    most=2**32 - 1,
  )

  def check(self) -> None:
    """Raises a UserError if the run is too long for the host's memory."""
    if self.rounds is not None:  # EpochsConfig.resolve replaces None
      # The host keeps a learning rate, a theta and a cohort of each round.
      host_memory.check(64 * self.rounds, f"a run of {self.rounds:,} rounds", "choose fewer rounds")

  def resolve(self, round_examples: int, examples: int) -> Self:
    """Returns the config with all lengths in rounds; a second call changes nothing.

    ``round_examples`` is the number of training examples of a round, or of a step of a joint model;
    ``examples`` is the number of all clients' training examples.
    """
    return self

  def check_counts(self, steps: np.ndarray, examples: np.ndarray) -> None:
    """Raises a UserError if the int32 counters of local steps or of examples would overflow.

    ``steps`` [K] and ``examples`` [K], int64, are each client's local steps and maximum number of
    examples per round.
    """
    most, every = int(steps.max()), min(self.eval_every, self.rounds)
    if self.rounds * most > MAX_INT:
      raise UserError(
        f"{self.rounds:,} rounds of {most:,} local steps are more than the {MAX_INT:,} "
        "steps that can be counted; choose fewer rounds or local steps."
      )
    total = every * sum(np.sort(examples)[-(self.cohort or len(examples)) :].tolist())
    if total > MAX_INT:
      raise UserError(
        f"{every:,} rounds between evaluations are up to {total:,} examples, more than the "
        f"{MAX_INT:,} that can be counted; choose a smaller --eval_every."
      )

  def cohort_of(self, num_clients: int) -> int:
    """Returns the number of clients per round in a population of ``num_clients``.

    Raises:
      UserError: the cohort is larger than the population.
    """
    if self.cohort and self.cohort > num_clients:
      raise UserError(
        f"a cohort of {self.cohort} cannot be drawn from {num_clients} clients; lower --cohort."
      )
    return self.cohort or num_clients
