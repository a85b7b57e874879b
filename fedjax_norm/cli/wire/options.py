"""The flags of the two sides of a wire, and of their certificates."""

import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar

from fedjax_norm import options
from fedjax_norm.cli.split_options import SplitFlags
from fedjax_norm.data.example_order import ExampleOrder
from fedjax_norm.data.partitions.registry import PartitionConfig
from fedjax_norm.data.sources.registry import DataConfig
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option

SERVER_SETTINGS = (
  "model", "stem", "norm", "groups", "group_size", "mean_only_bn", "norm_decay", "norm_epsilon",
  "brn_r_max", "brn_d_max", "brn_ramp", "cut", "tail", "rounds", "batch_size", "local_steps",
  "local_epochs", "hand_over", "handed_over", "lr", "lr_schedule", "lr_warmup_rounds",
  "lr_warmup_from", "lr_boundaries", "lr_factor", "lr_power", "momentum", "nesterov",
  "weight_decay", "clip_norm", "eval_every", "compute_dtype",
)  # fmt: skip
"""What the server decides and tells the clients."""

CONFIRMED_BY_CLIENT = ("cut", "tail")
"""What of it the clients have to be told by their own users too, as it decides what they send."""

_DATA = frozenset(
  one.name
  for kind in (DataConfig, PartitionConfig, Preprocess, ExampleOrder)
  for one in options.of(kind)
) - {"train_share", "relabelled", "compute_dtype"}
_RUN = ("seed", "workdir", "resume", "wait_for_workdir", "compilation_cache")
_YEAR = 365 * 24 * 3600  # seconds, the longest wait
_ALL = frozenset(one.name for one in options.of(SplitFlags))


@dataclasses.dataclass(frozen=True)
class WireFlags(SplitFlags):
  """Options of both sides."""

  algorithm = "split"
  hidden: ClassVar[Collection[str]] = ()
  apart: ClassVar[tuple[str, ...]] = (
    "authority", "certificate", "key", "patience", "linger", "max_megabytes",
  )  # fmt: skip
  """What changes no result, and may be other when a run goes on."""

  authority: str = option("certificates/authority.pem", "The authority's certificate.")
  certificate: str | None = option(None, "This party's certificate.")
  key: str | None = option(None, "The private key of --certificate.")
  patience: float = option(
    60.0, "Seconds for which somebody who does not answer is waited for.", least=1, most=_YEAR
  )
  linger: float = option(
    0.0,
    "Seconds to stay after the last round, for third parties that predict.",
    least=0,
    most=_YEAR,
  )
  # gRPC counts bytes in 31 bits.
  max_megabytes: int = option(256, "The size of the largest message.", least=1, most=2147)

  def saved(self) -> dict[str, Any]:
    """What identifies a run: the options given here or sent by the other side."""
    unused = {*self.apart, *(set(self.hidden) - set(SERVER_SETTINGS))}
    return {name: value for name, value in super().saved().items() if name not in unused}


@dataclasses.dataclass(frozen=True)
class ServerFlags(WireFlags):
  """Options of the server (Server)."""

  hidden = _ALL - {*SERVER_SETTINGS, *_RUN}
  apart = (*WireFlags.apart, "listen")

  client_names: str | None = option(
    None, "The names on the clients' certificates, in the order of their turns, with commas."
  )
  image_shape: str | None = option(None, "Height, width and channels of an image, as 28x28x1.")
  classes: int | None = option(None, "How many classes there are.", least=1)
  listen: str = option("localhost:50051", "HOST:PORT to listen at.")


@dataclasses.dataclass(frozen=True)
class ClientFlags(WireFlags):
  """Options of a client (Client); the server sends her the others.

  What she sends is for her to say: ``--cut`` and ``--tail`` have to be those of the server.
  """

  hidden = _ALL - {*_DATA, *_RUN, *CONFIRMED_BY_CLIENT}
  apart = (*WireFlags.apart, "server", "listen", "client_id", "init_seed", "predict")

  server: str = option("localhost:50051", "HOST:PORT of the server.")
  client_id: int | None = option(
    None,
    "Which of the --clients that divide --data this is, from 0. If not given, --data is all its "
    "own, and so are the mean and deviation of the training images that it standardises with, in "
    "--predict too.",
  )
  init_seed: int | None = option(
    None,
    "Of the weights, should this be the first client; drawn, and told nobody else, if not.",
    most=2**32 - 1,
  )
  listen: str | None = option(
    None, "With --hand_over=peer, HOST:PORT at which peers find this; localhost:0 by default."
  )
  predict: bool = option(
    False, "Whether to classify the test images with the trained network, and not to train."
  )

  def check(self) -> None:
    """Refuses what would do nothing."""
    for name in ("init_seed", "listen"):
      if self.predict and getattr(self, name) is not None:
        raise UserError(f"--{name} does nothing here: with --predict nothing is trained; drop it.")


@dataclasses.dataclass(frozen=True)
class CertificatesFlags(Options):
  """Options of the maker of certificates."""

  output: str = option("certificates", "The folder to make; keys in it are never overwritten.")
  clients: str | None = option(None, "The clients' names, with commas: alice0,alice1.")
  server: str = option(
    "localhost", "The host names and addresses that the server is reached by, with commas."
  )
  days: int = option(365, "How long the certificates are valid.")
