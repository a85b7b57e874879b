"""Options of the programs of split learning over a network: server, client and certificates."""

import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar

from fedjax_norm import options
from fedjax_norm.cli.split_options import SplitFlags
from fedjax_norm.data.example_order import ExampleOrder
from fedjax_norm.data.partitions.registry import PartitionConfig
from fedjax_norm.data.sources.config import DataConfig
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
"""Options that the server decides and sends to clients."""

CONFIRMED_BY_CLIENT = ("cut", "tail")
"""Options of the server that a client has to give too, because they decide what it sends."""

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
  """Options of both the server and the client."""

  algorithm = "split"
  hidden: ClassVar[Collection[str]] = ()
  not_saved: ClassVar[tuple[str, ...]] = (
    "authority", "certificate", "key", "patience", "linger", "max_megabytes",
  )  # fmt: skip
  """Options that change no result and can differ when a run resumes."""

  authority: str = option(
    "certificates/authority.pem",
    "Certificate file of the authority that signed all parties' certificates.",
  )
  certificate: str | None = option(None, "File of this party's certificate; required.")
  key: str | None = option(None, "File of the private key of --certificate; required.")
  patience: float = option(
    60.0,
    "Seconds to wait for a party that does not answer. Then the server passes a client's turn on, "
    "and a client stops.",
    least=1,
    most=_YEAR,
  )
  linger: float = option(
    0.0, "Seconds to run on after the last round for parties with --predict.", least=0, most=_YEAR
  )
  # gRPC counts bytes in 31 bits.
  max_megabytes: int = option(256, "Largest size of a message, in megabytes.", least=1, most=2147)

  def saved(self) -> dict[str, Any]:
    """Returns the options that must not change when a run resumes, by name."""
    unused = {*self.not_saved, *(set(self.hidden) - set(SERVER_SETTINGS))}
    return {name: value for name, value in super().saved().items() if name not in unused}


@dataclasses.dataclass(frozen=True)
class ServerFlags(WireFlags):
  """Options of the server."""

  hidden = _ALL - {*SERVER_SETTINGS, *_RUN}
  not_saved = (*WireFlags.not_saved, "listen")

  client_names: str | None = option(
    None, "Names on the clients' certificates in the order of turns, with commas; required."
  )
  image_shape: str | None = option(
    None, "Height, width and channels of the clients' images, for example 28x28x1; required."
  )
  classes: int | None = option(None, "Number of classes in the clients' data; required.", least=1)
  listen: str = option("localhost:50051", "HOST:PORT at which the server listens for clients.")


@dataclasses.dataclass(frozen=True)
class ClientFlags(WireFlags):
  """Options of a client; the server sends the options of training.

  ``--cut`` and ``--tail`` must equal the server's: the user of a client decides what it sends.
  """

  hidden = _ALL - {*_DATA, *_RUN, *CONFIRMED_BY_CLIENT}
  not_saved = (*WireFlags.not_saved, "server", "listen", "client_id", "init_seed", "predict")

  server: str = option("localhost:50051", "HOST:PORT of the server.")
  client_id: int | None = option(
    None,
    "Index of this client, from 0, if --data is partitioned over --clients. Without it, all of "
    "--data belongs to this client, and images are standardized with the mean and standard "
    "deviation of its training images, also with --predict.",
  )
  init_seed: int | None = option(
    None,
    "Seed of the initial weights if this client trains first; unset draws a secret random seed.",
    most=2**32 - 1,
  )
  listen: str | None = option(
    None,
    "With --hand_over=peer, HOST:PORT at which other clients fetch this client's weights; unset "
    "listens at a free port of localhost.",
  )
  predict: bool = option(
    False, "Instead of training, classify the test images with the trained network (sec. 3)."
  )

  def check(self) -> None:
    """Raises ``UserError`` for --init_seed and --listen with --predict: they have no effect."""
    for name in ("init_seed", "listen"):
      if self.predict and getattr(self, name) is not None:
        raise UserError(f"--{name} has no effect with --predict, which trains nothing; drop it.")


@dataclasses.dataclass(frozen=True)
class CertificatesFlags(Options):
  """Options of ``experiments.certificates``."""

  output: str = option("certificates", "Output folder; existing files are not overwritten.")
  clients: str | None = option(None, "Names of the clients, separated by commas: alice0,alice1.")
  server: str = option(
    "localhost", "Host names and IP addresses of the server, separated by commas, its name first."
  )
  days: int = option(365, "Days for which the certificates are valid.")
