"""From the flags to the options of FedAvg, SSGD and ASGD."""

from experiments.algorithm_flags import AsgdFlags, FedAvgFlags, SsgdFlags
from experiments.checks import given, refuse
from experiments.config import Config
from fedjax_norm.algorithms.asgd import AsgdConfig
from fedjax_norm.algorithms.fedavg import FedAvgConfig
from fedjax_norm.algorithms.ssgd import SsgdConfig
from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalConfig
from fedjax_norm.objectives import trained_by


def make_local(config: Config, prox: float = 0.0) -> LocalConfig:
  """A client's batch, and the SGD of FedAvg's clients or of SSGD's master."""
  if not config.momentum:
    refuse(config, ("nesterov",), "--momentum above 0")
  return LocalConfig(
    batch_size=config.batch_size,
    momentum=config.momentum,
    nesterov=config.nesterov,
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
    prox=prox,
    accumulate=config.accumulate,
    objective=trained_by(config.task),
  )


def make_ssgd_config(config: SsgdFlags) -> SsgdConfig:
  """SSGD's options."""
  return SsgdConfig(
    make_local(config),
    config.weighting,
    batch_split=config.batch_split,
    batch_stats=config.batch_stats or "mean",
  )


def make_asgd_config(config: AsgdFlags) -> AsgdConfig:
  """Asynchronous SGD's options."""
  return AsgdConfig(
    make_local(config),
    config.delay_compensation,
    config.delay_lambda,
    config.delay_decay,
    config.batch_stats or "mean",
  )


def _kept(config: FedAvgFlags) -> str:
  """Momentum stays with the clients where all of them take part, as one state each is kept."""
  return "local" if config.momentum and config.cohort is None else "reset"


def make_fedavg_config(config: FedAvgFlags) -> FedAvgConfig:
  """FedAvg's options."""
  if not config.momentum:
    refuse(config, ("client_momentum",), "--momentum above 0")
  if config.server_optimizer != "momentum":
    refuse(config, ("server_momentum",), "--server_optimizer=momentum")
  if config.fedbn and config.batch_stats not in (None, "local"):
    raise UserError(
      f"--fedbn keeps the statistics on the client, which --batch_stats={config.batch_stats} "
      "denies; drop one of them."
    )
  return FedAvgConfig(
    local=make_local(config, config.prox),
    local_steps=given(config.local_steps, None if config.local_epochs else 1),
    local_epochs=config.local_epochs,
    weighting=config.weighting,
    client_momentum=config.client_momentum or _kept(config),
    server_optimizer=config.server_optimizer,
    server_rate=config.server_lr,
    server_momentum=given(config.server_momentum, 0.9),
    batch_stats=config.batch_stats or ("local" if config.fedbn else "mean"),
    fedbn=config.fedbn,
  )
