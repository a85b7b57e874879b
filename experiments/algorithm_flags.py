"""The flags of federated averaging and of synchronous and asynchronous SGD."""

import dataclasses
from collections.abc import Collection
from typing import ClassVar

import numpy as np

from experiments.config import Config
from fedjax_norm.algorithms import asgd, fedavg, ssgd
from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.training.epochs import EpochsConfig


@dataclasses.dataclass(frozen=True)
class TurnFlags(Config):
  """What a run is told besides whose clients take several steps by themselves."""

  local_steps: int | None = option(None, "Local steps of a client a round; 1 by default.", least=1)
  local_epochs: int | None = option(None, "Passes over a client's data a round, instead.", least=1)

  def steps_of_a_round(self, sizes: np.ndarray) -> int | np.ndarray:
    """The local steps of each client in a round, for all clients or [K].

    Args:
      sizes: [K] the examples of each.
    """
    if self.local_epochs:
      return self.local_epochs * -(-sizes // self.batch_size)
    return 1 if self.local_steps is None else self.local_steps


@dataclasses.dataclass(frozen=True)
class FedAvgFlags(TurnFlags):
  """What a run of FedAvg is told besides."""

  algorithm = "fedavg"

  client_momentum: str | None = option(
    None,
    "What becomes of the clients' momentum after a round; local by default if all take part, else "
    "reset.",
    choices=fedavg.MOMENTA,
  )
  prox: float = option(0.0, "mu of FedProx.")
  weighting: str = option("examples", "Of clients in the average.", choices=fedavg.WEIGHTINGS)
  server_optimizer: str = option("sgd", "Of the averaged change.", choices=fedavg.SERVER_OPTIMIZERS)
  server_lr: float = option(1.0, "The server's learning rate.")
  server_momentum: float | None = option(None, "Of --server_optimizer=momentum; 0.9 by default.")
  fedbn: bool = option(False, "FedBN: norm parameters and statistics stay on the client.")


@dataclasses.dataclass(frozen=True)
class StepwiseFlags(EpochsConfig, Config):
  """What a run is told besides whose rounds are steps of the joint model, by all clients."""

  group = "algorithm"
  hidden: ClassVar[Collection[str]] = ("cohort",)


@dataclasses.dataclass(frozen=True)
class SsgdFlags(StepwiseFlags):
  """What a run of SSGD is told besides."""

  algorithm = "ssgd"

  weighting: str = option(
    "examples",
    "Of gradients in the average: examples (eq. 8) or uniform (eq. 5).",
    choices=ssgd.WEIGHTINGS,
  )
  batch_split: str = option(
    "equal",
    "How the joint batch is divided: --batch_size each, or proportional to the workers' data.",
    choices=ssgd.BATCH_SPLITS,
  )


@dataclasses.dataclass(frozen=True)
class AsgdFlags(StepwiseFlags):
  """What a run of asynchronous SGD is told besides."""

  algorithm = "asgd"
  several_processes = False
  usual = (3000, 250)

  delay_compensation: str = option(
    "none",
    "Of a late gradient g: g + lambda g g (w - w_bak), lambda constant or adaptive.",
    choices=asgd.COMPENSATIONS,
  )
  delay_lambda: float | None = option(
    None, "lambda_0; 0.04 for constant and 2 for adaptive by default."
  )
  delay_decay: float | None = option(
    None, "What adaptive's mean square of gradients keeps a step; 0.95 by default."
  )

  def round_examples(self, clients: int) -> int:
    """The examples of an arrival, which is of one client."""
    del clients
    return self.batch_size

  def check(self) -> None:
    """Refuses what is told in rounds of all clients."""
    if self.drift != "none":
      raise UserError(
        "--drift counts rounds of all clients, and a round of asgd is of one; drop it."
      )
