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

WEIGHTINGS = ("examples", "processed", "uniform")


@dataclasses.dataclass(frozen=True)
class AveragingConfig(LocalStepsConfig):
  """Options of algorithms whose clients take local steps between two averages."""

  group = "algorithm"

  weighting: str = option(
    "examples",
    "Weight of a client in the average: its number of examples, the examples that it processed in "
    "the round, or the same for all (uniform).",
    choices=WEIGHTINGS,
  )
  client_momentum: str | None = option(
    None,
    "What happens to a client's momentum after a round: it is reset to zero or stays on the client "
    "(local). The default is local if all clients take part in each round, else reset.",
    choices=("reset", "local"),
    needs="momentum",
  )
  fedbn: bool = option(
    False, "FedBN: the parameters and statistics of batch normalization stay on the client."
  )

  def check(self) -> None:
    """Raises UserError if FedBN is combined with a policy that sends batch statistics."""
    if self.fedbn and self.batch_stats not in (None, "local"):
      raise UserError(
        "--fedbn stores batch statistics on the client, which contradicts "
        f"--batch_stats={self.batch_stats}; drop one of them."
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
    """Returns the options with all defaults filled in."""
    config = super().fill_defaults(spec, all_clients)
    if self.client_momentum is None and self.momentum:
      return dataclasses.replace(config, client_momentum="local" if all_clients else "reset")
    return config

  def weight(self, examples: ClientData, trained: ClientOutput) -> Array:
    """Returns the weight of a client in the average."""
    match self.weighting:
      case "examples":
        return examples.size
      case "processed":
        return trained.metrics.examples
      case _:
        return jnp.int32(1)


@dataclasses.dataclass(frozen=True)
class ServerRateConfig(Options):
  """Option of algorithms in which the server scales the mean change."""

  group = "algorithm"

  server_lr: float = option(1.0, "Learning rate of the server.", above=0)
