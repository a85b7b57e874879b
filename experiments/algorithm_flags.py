"""The flags of federated averaging and of synchronous and asynchronous SGD."""

import dataclasses

from experiments.config import Config
from experiments.fields import boolean, choice, integer, number
from fedjax_norm.algorithms import asgd, fedavg, ssgd


@dataclasses.dataclass(frozen=True)
class TurnFlags(Config):
  """What a run is told besides whose clients take several steps by themselves."""

  cohort: int | None = integer(None, "Clients a round; all by default.")
  local_steps: int | None = integer(None, "Local steps of a client a round; 1 by default.")
  local_epochs: int | None = integer(None, "Passes over a client's data a round, instead.")


@dataclasses.dataclass(frozen=True)
class FedAvgFlags(TurnFlags):
  """What a run of FedAvg is told besides."""

  algorithm = "fedavg"

  client_momentum: str | None = choice(
    None,
    fedavg.MOMENTA,
    "What becomes of the clients' momentum after a round; local by default if all take part, else "
    "reset.",
  )
  prox: float = number(0.0, "mu of FedProx.")
  weighting: str = choice("examples", fedavg.WEIGHTINGS, "Of clients in the average.")
  server_optimizer: str = choice("sgd", fedavg.SERVER_OPTIMIZERS, "Of the averaged change.")
  server_lr: float = number(1.0, "The server's learning rate.")
  server_momentum: float | None = number(None, "Of --server_optimizer=momentum; 0.9 by default.")
  fedbn: bool = boolean(False, "FedBN: norm parameters and statistics stay on the client.")


@dataclasses.dataclass(frozen=True)
class StepwiseFlags(Config):
  """What a run is told besides whose rounds are steps of the joint model."""

  epochs: int | None = integer(
    None, "Passes over all the data, instead of --rounds; --eval_every counts them too then."
  )
  lr_warmup_epochs: int | None = integer(None, "Epochs of warm-up, instead of rounds.")
  scale_lr_from: int | None = integer(
    None, "Linear scaling: --lr is for a joint batch of this size and grows with the real one."
  )


@dataclasses.dataclass(frozen=True)
class SsgdFlags(StepwiseFlags):
  """What a run of SSGD is told besides."""

  algorithm = "ssgd"

  weighting: str = choice(
    "examples", ssgd.WEIGHTINGS, "Of gradients in the average: examples (eq. 8) or uniform (eq. 5)."
  )
  batch_split: str = choice(
    "equal",
    ssgd.BATCH_SPLITS,
    "How the joint batch is divided: --batch_size each, or proportional to the workers' data.",
  )


@dataclasses.dataclass(frozen=True)
class AsgdFlags(StepwiseFlags):
  """What a run of asynchronous SGD is told besides."""

  algorithm = "asgd"
  several_processes = False
  usual = (3000, 250)

  delay_compensation: str = choice(
    "none",
    asgd.COMPENSATIONS,
    "Of a late gradient g: g + lambda g g (w - w_bak), lambda constant or adaptive.",
  )
  delay_lambda: float | None = number(
    None, "lambda_0; 0.04 for constant and 2 for adaptive by default."
  )
  delay_decay: float | None = number(
    None, "What adaptive's mean square of gradients keeps a step; 0.95 by default."
  )
