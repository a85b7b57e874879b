"""Options of algorithms that average their clients' models or updates."""

import dataclasses
from typing import Self

import jax.numpy as jnp

from fedjax_norm.algorithms.contract import ClientData
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import ClientOutput, LocalStepsConfig
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import Options, option
from fedjax_norm.typing import Array


@dataclasses.dataclass(frozen=True)
class AveragingConfig(LocalStepsConfig):
  """Options of algorithms in which clients take local steps between two averages."""

  group = "algorithm"

  weighting: str = option(
    "examples",
    "Weight of a client in the average of models: its number of training examples (examples), the "
    "number of examples that it processed in the round (processed), or 1 (uniform).",
    choices=("examples", "processed", "uniform"),
  )
  client_momentum: str | None = option(
    None,
    "What happens to a client's momentum after a round: it is set to zero (reset) or stays on the "
    "client for its next round (local). If unset: local if all clients take part in each round, "
    "else reset.",
    choices=("reset", "local"),
    needs="momentum",
  )
  fedbn: bool = option(
    False,
    "Turns on FedBN: each client keeps the parameters (scales and biases) and the running "
    "statistics of its norms, and the server averages only the other weights.",
  )

  def check(self) -> None:
    """Raises UserError if ``fedbn`` is combined with a ``batch_stats`` other than local."""
    if self.fedbn and self.batch_stats not in (None, "local"):
      raise UserError(
        "--fedbn stores running statistics on each client, but "
        f"--batch_stats={self.batch_stats} computes global ones; drop --batch_stats for FedBN, or "
        "--fedbn for global statistics."
      )

  def statistics_policy(self, spec: NormSpec) -> str:
    """Returns ``batch_stats``, or its default: ``local`` for FedBN, else ``mean``."""
    return self.batch_stats or ("local" if self.fedbn else "mean")

  @property
  def keeps_momentum(self) -> bool:
    """Whether a client stores its optimizer state between rounds."""
    return self.client_momentum == "local"

  @property
  def keeps_norms(self) -> bool:
    """Whether the norms' parameters stay on the client (FedBN)."""
    return self.fedbn

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """Returns the options with the defaults that depend on the norm or on full participation."""
    config = super().fill_defaults(spec, all_clients)
    if self.client_momentum is None and self.momentum:
      return dataclasses.replace(config, client_momentum="local" if all_clients else "reset")
    return config

  def weight(self, examples: ClientData, trained: ClientOutput) -> Array:
    """Returns the weight of a client in the average of models, by the option ``weighting``."""
    if self.weighting == "uniform":
      return jnp.int32(1)
    return examples.size if self.weighting == "examples" else trained.metrics.examples


@dataclasses.dataclass(frozen=True)
class ServerRateConfig(Options):
  """The option of algorithms in which the server scales the mean change of the clients' models."""

  group = "algorithm"

  server_lr: float = option(
    1.0,
    "Learning rate of the server's step along the mean change of the clients' models (in FedAvg, "
    "of every --server_optimizer). A plain step (sgd) with 1 takes the whole mean change.",
    above=0,
  )
