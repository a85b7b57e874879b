"""The options of the training steps of a client: SGD, batches and the number of steps."""

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
"""How a server can combine the clients' running statistics: the values of ``batch_stats``."""


@dataclasses.dataclass(frozen=True)
class SgdConfig(Options):
  """The options of SGD; changing one of them compiles the training program again.

  Attributes:
    optimizer: an optax transformation that replaces SGD's clipping, weight decay and momentum; its
      updates are multiplied by minus the learning rate. None for SGD.
    frozen_paths: paths 'a/b/c' of the parameters that do not train.
  """

  group = "training"

  batch_size: int = option(32, "Number of a client's examples per local step.", least=1)
  momentum: float = option(
    0.9,
    "Momentum of the clients' SGD; in SSGD and ASGD, of the server's. 0: none.",
    least=0,
    below=1,
  )
  nesterov: bool = option(False, "Use Nesterov's form of --momentum.", needs="momentum")
  weight_decay: float = option(
    5e-4, "Weight decay: this factor times the weights is added to the gradient. 0: none.", least=0
  )
  clip_norm: float = option(
    0.0,
    "Maximum norm of the gradient of all parameters together; a larger gradient is scaled down to "
    "this norm. 0: no clipping.",
    least=0,
  )
  optimizer: optax.GradientTransformation | None = None
  frozen_paths: frozenset[str] = frozenset()

  def check(self) -> None:
    """Raises UserError if options of SGD are set although ``optimizer`` replaces SGD."""
    if self.optimizer is not None:
      refuse_replaced(self, "optimizer", "momentum", "nesterov", "weight_decay", "clip_norm")


@dataclasses.dataclass(frozen=True)
class LocalConfig(SgdConfig):
  """The options of a client's local step, from which the options of all algorithms inherit.

  Attributes:
    objective: training loss: a name in ``objectives.OBJECTIVES``, or a user-defined objective.
  """

  group = "training"

  accumulate: int = option(
    1,
    "Number of equal parts into which a batch is divided to save device memory: the model "
    "processes the parts sequentially, and the gradients of the parts are summed.",
    least=1,
  )
  batch_stats: str | None = option(
    None,
    "How the server combines the clients' running statistics of norms: mean (the default), moments "
    "(also counts the variance between clients' means), local (statistics stay on the client: "
    "SiloBN), or recalibrate (recomputes them with the global model before each evaluation).",
    choices=STATISTICS,
  )
  objective: str | Objective = "classification"

  def check(self) -> None:
    """Raises UserError if ``accumulate`` does not divide a batch or the objective is unknown."""
    if self.batch_size % self.accumulate:
      raise UserError(
        f"a batch of {self.batch_size} cannot be divided into {self.accumulate} equal parts; "
        "choose a value of --accumulate that divides --batch_size."
      )
    find(self.objective)

  def statistics_policy(self, spec: NormSpec) -> str:
    """Returns how the server combines a norm's running statistics: a value in ``STATISTICS``."""
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
    """Returns the number of local steps per round of clients with ``size`` examples (any shape).

    A number that does not depend on ``size`` is a NumPy array, known when the program is compiled.
    """
    return np.ones(np.shape(size), np.int32)

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """Returns the options, with None replaced by the defaults for this norm and kind of cohort.

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
    """Returns the number of examples that this many clients together use in one step."""
    return self.batch_size * clients

  def step_examples(self, sizes: np.ndarray) -> np.ndarray:
    """Returns the batch sizes [K] of K clients, given the sizes [K] of their data sets."""
    return np.full(len(sizes), self.batch_size)


@dataclasses.dataclass(frozen=True)
class LocalStepsConfig(LocalConfig):
  """The options of algorithms whose clients can take several local steps per round."""

  group = "algorithm"

  local_steps: int | None = option(
    None, "Number of local steps of a client per round; 1 by default.", least=1
  )
  local_epochs: int | None = option(
    None, "Number of passes of a client over its data per round, instead of --local_steps.", least=1
  )

  def check(self) -> None:
    """Raises UserError if both ``local_steps`` and ``local_epochs`` are given."""
    if self.local_steps is not None and self.local_epochs is not None:
      raise UserError(
        "--local_steps and --local_epochs exclude each other; drop either of the two."
      )

  @property
  def steps_vary(self) -> bool:
    """Whether the number of local steps depends on the size of a client's data."""
    return self.local_epochs is not None

  def steps(self, size: Any) -> Any:
    """Returns the number of local steps per round of clients with ``size`` examples (any shape)."""
    if self.local_epochs is None:
      return np.full(np.shape(size), self.local_steps or 1, np.int32)
    return self.local_epochs * steps_per_epoch(size, self.batch_size)

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """Returns the options, with None replaced by defaults (see :class:`LocalConfig`)."""
    config = super().fill_defaults(spec, all_clients)
    missing = config.local_steps is None and config.local_epochs is None
    return dataclasses.replace(config, local_steps=1) if missing else config
