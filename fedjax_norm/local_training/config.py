"""The options of a client's local training."""

import dataclasses
from typing import Any, Self

import numpy as np
import optax

from fedjax_norm.data.federated import steps_per_epoch
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NormSpec
from fedjax_norm.objectives import Objective, find
from fedjax_norm.options import Options, option, refuse_replaced

STATISTICS = ("mean", "moments", "local", "recalibrate")
"""The ways to combine running statistics (see ``algorithms/batch_statistics.py``)."""


@dataclasses.dataclass(frozen=True)
class SgdConfig(Options):
  """The options of SGD; all of them are compile-time constants.

  Attributes:
    optimizer: an optax transformation that replaces SGD's clipping, weight decay and momentum; its
      updates are multiplied by the negated learning rate.
    frozen_paths: paths of the parameters that do not train.
  """

  group = "training"

  batch_size: int = option(32, "Examples per local step.", least=1)
  momentum: float = option(
    0.9, "Momentum of SGD: of the clients, or of the server in SSGD and ASGD.", least=0, below=1
  )
  nesterov: bool = option(False, "Use Nesterov momentum.", needs="momentum")
  weight_decay: float = option(
    5e-4, "L2 penalty that the client optimizer adds to the gradient.", least=0
  )
  clip_norm: float = option(
    0.0, "Largest global norm of a gradient; larger gradients are clipped. 0: no clipping.", least=0
  )
  optimizer: optax.GradientTransformation | None = None
  frozen_paths: frozenset[str] = frozenset()

  def check(self) -> None:
    """Raises UserError if a user-defined optimizer comes with options that only SGD reads."""
    if self.optimizer is not None:
      refuse_replaced(self, "optimizer", "momentum", "nesterov", "weight_decay", "clip_norm")


@dataclasses.dataclass(frozen=True)
class LocalConfig(SgdConfig):
  """The options of a local step of a client, or of the server's step in SSGD.

  The configurations of all algorithms inherit from it.

  Attributes:
    objective: training loss: a name in ``objectives.OBJECTIVES``, or a user-defined objective.
  """

  group = "training"

  accumulate: int = option(
    1,
    "Number of equal parts into which a batch is divided; the model processes the parts "
    "sequentially, to save memory, and their gradients are summed.",
    least=1,
  )
  batch_stats: str | None = option(
    None,
    "How the server combines the clients' running statistics: mean (the default), moments (keeps "
    "the variance between clients), local (they stay on the client: SiloBN), or recalibrate "
    "(recomputed with the global model before each evaluation).",
    choices=STATISTICS,
  )
  objective: str | Objective = "classification"

  def check(self) -> None:
    """Raises UserError if options contradict each other."""
    if self.batch_size % self.accumulate:
      raise UserError(
        f"a batch of {self.batch_size} cannot be divided into {self.accumulate} equal parts; "
        "choose an accumulate that divides the batch_size."
      )
    find(self.objective)

  def statistics_policy(self, spec: NormSpec) -> str:
    """Returns how running statistics of a norm are combined: ``batch_stats``, or its default."""
    del spec
    return self.batch_stats or "mean"

  @property
  def keeps_momentum(self) -> bool:
    """Whether a client's optimizer state stays on the client between rounds."""
    return False

  @property
  def keeps_norms(self) -> bool:
    """Whether the norms' parameters stay on the client (FedBN)."""
    return False

  def steps(self, size: Any) -> Any:
    """Returns the local steps per round of a client with this many examples."""
    return 0 * size + 1

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """Returns the options with the defaults that depend on the norm and the cohort filled in.

    Args:
      spec: the model's norm.
      all_clients: whether every client takes part in every round.
    """
    del all_clients
    return dataclasses.replace(self, batch_stats=self.statistics_policy(spec))

  @property
  def depends_on_seed(self) -> bool:
    """Whether the compiled program depends on the seed or on the sizes of the clients' data."""
    return False

  @property
  def steps_vary(self) -> bool:
    """Whether the number of local steps depends on the size of a client's data."""
    return False

  def round_examples(self, clients: int) -> int:
    """Returns the examples of one step of this many clients, by which epochs are counted."""
    return self.batch_size * clients

  def step_examples(self, sizes: np.ndarray) -> np.ndarray:
    """Returns the examples of one step of each client: [K], from their dataset sizes [K]."""
    return np.full(len(sizes), self.batch_size)


@dataclasses.dataclass(frozen=True)
class LocalStepsConfig(LocalConfig):
  """Options of algorithms that take several local steps per round."""

  group = "algorithm"

  local_steps: int | None = option(
    None, "Local steps of a client per round; 1 by default.", least=1
  )
  local_epochs: int | None = option(
    None, "Passes of a client over its data per round, instead of --local_steps.", least=1
  )

  def check(self) -> None:
    """Raises UserError if both the local steps and the local epochs are given."""
    if self.local_steps is not None and self.local_epochs is not None:
      raise UserError("local_steps and local_epochs exclude each other; give one of them.")

  @property
  def steps_vary(self) -> bool:
    """Whether the number of local steps depends on the size of a client's data."""
    return self.local_epochs is not None

  def steps(self, size: Any) -> Any:
    """Returns the local steps per round of a client with this many examples."""
    if self.local_epochs is None:
      return 0 * size + (self.local_steps or 1)
    return self.local_epochs * steps_per_epoch(size, self.batch_size)

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """Returns the options with their defaults filled in (see :class:`LocalConfig`)."""
    config = super().fill_defaults(spec, all_clients)
    if config.local_steps is None and config.local_epochs is None:
      return dataclasses.replace(config, local_steps=1)
    return config
