"""From a config to the library's objects; what a flag cannot mean is refused here."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from experiments.flags import (
  AsgdFlags,
  Config,
  DataFlags,
  DecentralizedFlags,
  FedAvgFlags,
  SsgdFlags,
  StepwiseFlags,
)
from fedjax_norm import models, norm
from fedjax_norm.algorithms.asgd import AsgdConfig
from fedjax_norm.algorithms.dgc import STAGES, DgcConfig
from fedjax_norm.algorithms.fedavg import FedAvgConfig
from fedjax_norm.algorithms.gaia import GaiaConfig
from fedjax_norm.algorithms.periodic import PeriodicConfig
from fedjax_norm.algorithms.ssgd import SsgdConfig
from fedjax_norm.control.dial import Dial, stages
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.control.skewscout import GRIDS, SkewScout
from fedjax_norm.data import partition, sources
from fedjax_norm.data.examples import Source
from fedjax_norm.data.files import Labels
from fedjax_norm.data.order import Order
from fedjax_norm.data.partition import Partition
from fedjax_norm.data.preprocess import Preprocess
from fedjax_norm.data.relabel import relabel
from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalConfig
from fedjax_norm.norm import NormSpec, Renorm
from fedjax_norm.training.diagnose import DiagnosticsConfig
from fedjax_norm.training.loop import LoopConfig, Program
from fedjax_norm.training.personalise import FineTune
from fedjax_norm.training.programs import FreezeConfig
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.task import Task, make_task

T = TypeVar("T")
Mine = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def _or(value: T | None, default: T) -> T:
  return default if value is None else value


def _refuse(config: DataFlags, names: tuple[str, ...], needs: str) -> None:
  """Refuses flags that were given and would do nothing."""
  for name in names:
    if getattr(config, name) not in (None, False):
      raise UserError(f"--{name} does nothing here: it needs {needs}; drop it or add that.")


def _at_least(config: DataFlags, least: float, *names: str) -> None:
  for name in names:
    value = getattr(config, name)
    if value is not None and value < least:
      raise UserError(f"--{name} is {value}; it must be at least {least:g}.")


def _lengths(config: Config) -> tuple[int, int]:
  """The rounds of a run and those between its evaluations, the usual ones if not given."""
  rounds, every = config.usual
  return _or(config.rounds, rounds), _or(config.eval_every, every)


def numbers(config: Config, name: str, kind: type) -> tuple:
  """The numbers of a flag that has them with commas between.

  Raises:
    UserError: something else is among them.
  """
  value = getattr(config, name)
  try:
    return tuple(kind(item) for item in value.split(","))
  except ValueError:
    raise UserError(
      f"--{name} is {value!r}; give {kind.__name__} numbers separated by commas."
    ) from None


def make_source(config: Config, mine: Mine | None = None) -> Source:
  """Loads the data.

  Args:
    config: the flags.
    mine: (labels, natural clients) -> the ids of the training examples to read; None is all.
  """
  _at_least(config, 1, "image_size")
  open_set = config.task == "verification"
  return sources.load(
    config.data,
    image_size=config.image_size,
    mine=mine,
    open_set=open_set,
    **_data_options(config),
  )


def make_labels(config: DataFlags) -> Labels:
  """The labels and natural clients of the training examples, without their images."""
  return sources.load_labels(config.data, **_data_options(config))


def _data_options(config: DataFlags) -> dict[str, Any]:
  builtin = config.data in sources.BUILT_IN or config.data.startswith(
    ("synthetic:", "identities", "npy:", "npz:", "folder:", "csv:")
  )
  if builtin:
    _refuse(config, ("data_dir",), "a prepared TFDS set as --data")
  _at_least(config, 0, "min_region_size")
  if config.partition != "natural" and not config.min_region_size:
    _refuse(config, ("region",), "--partition=natural or a --min_region_size")
  return {
    "data_dir": config.data_dir,
    "region": config.region,
    "min_region_size": config.min_region_size,
  }


_PARTITION_FLAGS = (
  "classes_per_client",
  "ratio",
  "fraction",
  "dominant_share",
  "alpha",
  "exponent",
  "min_size",
)


def make_partition(
  config: DataFlags, labels: np.ndarray, owners: np.ndarray | None, seed: int
) -> Partition:
  """Divides the training examples over the clients.

  Args:
    config: the flags.
    labels: [N] of the examples.
    owners: [N] whose each is by itself, where the data says.
    seed: of what is random.
  """
  known = partition.OPTIONS[config.partition]
  others = tuple(name for name in _PARTITION_FLAGS if name not in known)
  _refuse(config, others, "another --partition")
  options: dict[str, Any] = {
    name: getattr(config, name)
    for name in _PARTITION_FLAGS
    if name in known and getattr(config, name) is not None
  }
  clients = _or(config.clients, 10)
  if config.partition == "classes":
    least = -(-len(np.unique(labels)) // max(clients, 1))
    options.setdefault("classes_per_client", least)
  if config.partition == "natural":
    if owners is None:
      raise UserError(
        f"--partition=natural needs data that says whose each example is; {config.data!r} does not."
      )
    options["clients"] = owners
    clients = config.clients or 0
  return partition.make(config.partition, labels, clients, seed, **options)


def make_norm(config: Config) -> NormSpec:
  """The norm's spec; the ramps of batch renormalization are in rounds."""
  ramps = ("brn_r_max", "brn_d_max", "brn_ramp")
  options: dict[str, Any] = {"groups": config.groups, "group_size": config.group_size}
  if config.norm == "gn" and config.groups is None and config.group_size is None:
    options |= models.entry(config.model).groups
  if config.norm == "brn":
    start, d_end, r_end = (0.04, 0.2, 0.3)
    if config.brn_ramp is not None:
      fractions = numbers(config, "brn_ramp", float)
      if len(fractions) != 3 or not all(0 <= f <= 1 for f in fractions):
        raise UserError("--brn_ramp takes three fractions from 0 to 1: start, end of d, end of r.")
      start, d_end, r_end = fractions
      if start > min(d_end, r_end):
        raise UserError("--brn_ramp begins with the start, which cannot come after the ends.")
    options["renorm"] = Renorm(
      _or(config.brn_r_max, 3.0),
      _or(config.brn_d_max, 5.0),
      *(fraction * _lengths(config)[0] for fraction in (start, r_end, d_end)),
    )
  else:
    _refuse(config, ramps, "--norm=brn")
  spec = norm.create(
    config.norm,
    **options,
    mean_only_bn=config.mean_only_bn,
    decay=_or(config.norm_decay, 0.9),
    epsilon=_or(config.norm_epsilon, 1e-5),
  )
  if not spec.has_running_statistics or config.batch_stats == "recalibrate":
    _refuse(config, ("norm_decay",), "running statistics that are moving averages")
  if not spec.normalizes or not spec.scale:
    _refuse(config, ("norm_epsilon",), "a norm that divides by a deviation")
  return spec


def in_rounds(config: Config, clients: int, examples: int) -> Config:
  """The config with its length and rate as numbers, in rounds.

  An epoch is as many rounds as all training examples last. What was used up is left out of the
  result, so that the same again changes nothing.

  Args:
    config: the flags.
    clients: how many.
    examples: all of theirs.

  Raises:
    UserError: a length given in epochs and in rounds.
  """
  _at_least(config, 1, "rounds", "eval_every", "batch_size")
  rounds, every = _lengths(config)
  if not isinstance(config, StepwiseFlags):
    return dataclasses.replace(config, rounds=rounds, eval_every=every)
  at_once = config.batch_size * (1 if isinstance(config, AsgdFlags) else clients)
  rate, start = config.lr, config.lr_warmup_from
  if config.scale_lr_from is not None:
    _at_least(config, 1, "scale_lr_from")
    rate *= at_once / config.scale_lr_from
    if start is None and rate > config.lr and (config.lr_warmup_rounds or config.lr_warmup_epochs):
      start = config.lr
  config = dataclasses.replace(config, lr=rate, lr_warmup_from=start, scale_lr_from=None)
  epoch = -(-examples // at_once)
  if isinstance(config, DecentralizedFlags) and config.sparsity_warmup_epochs is not None:
    _at_least(config, 0, "sparsity_warmup_epochs")
    if config.sparsity_warmup_rounds is not None:
      raise UserError("give --sparsity_warmup_epochs or --sparsity_warmup_rounds, not both.")
    each = config.sparsity_warmup_epochs * epoch
    config = dataclasses.replace(config, sparsity_warmup_epochs=None, sparsity_warmup_rounds=each)
  if config.epochs is None:
    _refuse(config, ("lr_warmup_epochs",), "--epochs")
    return dataclasses.replace(config, rounds=rounds, eval_every=every)
  _at_least(config, 1, "epochs", "lr_warmup_epochs")
  if config.rounds or (config.lr_warmup_rounds and config.lr_warmup_epochs):
    raise UserError("give lengths in epochs or in rounds, not the same one in both.")
  boundaries = config.lr_boundaries
  if boundaries is not None:
    boundaries = ",".join(str(at * epoch) for at in numbers(config, "lr_boundaries", int))
  return dataclasses.replace(
    config,
    rounds=config.epochs * epoch,
    lr_boundaries=boundaries,
    eval_every=_or(config.eval_every, 1) * epoch,
    lr_warmup_rounds=config.lr_warmup_rounds or _or(config.lr_warmup_epochs, 0) * epoch,
    epochs=None,
    lr_warmup_epochs=None,
  )


def make_task_of(
  config: Config,
  source: Source,
  division: Partition,
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> Task:
  """The task of one seed (see ``task.make_task``)."""
  shift = None
  if config.partition == "feature":
    shift = config.feature_shift or "noise"
  else:
    _refuse(config, ("feature_shift", "feature_scale"), "--partition=feature")
  if config.relabelled is not None:
    train, classes = source.train, len(source.class_names)
    named = relabel(train.labels, division, classes, config.relabelled, config.seed)
    source = source._replace(train=train._replace(labels=named))
  return make_task(
    source,
    division,
    make_norm(config),
    config.model,
    preprocess=Preprocess(config.standardise, config.augment, shift, config.compute_dtype),
    feature_scale=_or(config.feature_scale, 1.0),
    stem=config.stem,
    statistics=statistics,
    verification=config.task == "verification",
    order=make_order(config, partition.sizes(division)),
  )


def make_order(config: Config, sizes: np.ndarray) -> Order:
  """How clients go through their examples.

  Args:
    config: the flags, lengths in rounds.
    sizes: [K] the examples of each.
  """
  if config.batch_order == "shuffled":
    _refuse(config, ("order_block",), "--batch_order=label or source")
  if config.drift == "none":
    _refuse(config, ("drift_stretches", "drift_rounds"), "--drift=label or source")
    return Order(config.batch_order, config.order_block)
  if isinstance(config, AsgdFlags):
    raise UserError("a round of asgd is one worker's, so --drift has no rounds to go by; drop it.")
  stretches = _or(config.drift_stretches, 2)
  _at_least(config, 2, "drift_stretches")
  _at_least(config, 1, "drift_rounds")
  rounds = _or(config.drift_rounds, -(-_lengths(config)[0] // stretches))
  steps: int | np.ndarray = 1
  if isinstance(config, FedAvgFlags):
    epochs = config.local_epochs
    steps = epochs * -(-sizes // config.batch_size) if epochs else _or(config.local_steps, 1)
  return Order(config.batch_order, config.order_block, config.drift, stretches, rounds * steps)


def make_local(config: Config, prox: float = 0.0) -> LocalConfig:
  """A client's batch, and the SGD of FedAvg's clients or of SSGD's master."""
  if not config.momentum:
    _refuse(config, ("nesterov",), "--momentum above 0")
  return LocalConfig(
    batch_size=config.batch_size,
    momentum=config.momentum,
    nesterov=config.nesterov,
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
    prox=prox,
    accumulate=config.accumulate,
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


OWN_FLAGS = {
  "bsp": ("reduction",),
  "gaia": ("threshold",),
  "fedavg": ("local_steps", "client_momentum"),
  "dgc": (
    "sparsity",
    "sparsity_warmup_rounds",
    "sparsity_warmup_epochs",
    "selection",
    "momentum_masking",
  ),
}
"""Of ``experiments.decentralized``, by algorithm."""

_THETAS = ("threshold", "local_steps", "sparsity", "sparsity_warmup_rounds")


def make_decentralized_config(
  config: DecentralizedFlags,
) -> SsgdConfig | GaiaConfig | PeriodicConfig | DgcConfig:
  """The options of paper 004's algorithms."""
  for name, own in OWN_FLAGS.items():
    if name != config.algorithm:
      given = tuple(flag for flag in own if getattr(config, flag) is not None)
      if given:
        raise UserError(f"--{given[0]} belongs to --algorithm={name}; drop it.")
  local, stats = make_local(config), config.batch_stats or "mean"
  match config.algorithm:
    case "bsp":
      # A norm over the joint batch gives the gradient of that, in which every example counts alike.
      weighting = "examples" if config.norm == "sync_bn" else "uniform"
      reduction = config.reduction or "sum"
      return SsgdConfig(local, weighting, batch_stats=stats, reduction=reduction)
    case "gaia":
      # Partitions keep their models, and with them the statistics that no norm wants merged.
      apart = config.batch_stats is None and config.norm in ("bn", "brn")
      return GaiaConfig(local, "local" if apart else stats)
    case "fedavg":
      if not config.momentum:
        _refuse(config, ("client_momentum",), "--momentum above 0")
      kept = config.client_momentum or ("local" if config.momentum else "reset")
      return PeriodicConfig(local, kept, stats)
    case _:
      if not config.momentum:
        _refuse(config, ("momentum_masking",), "--momentum above 0")
      masking = _or(config.momentum_masking, True)
      return DgcConfig(local, stats, config.selection or "exact", masking)


_SCOUT_FLAGS = ("scout_grid", "scout_start", "scout_lambda_al", "scout_lambda_c", "scout_sigma_al")


def make_dial(config: DecentralizedFlags) -> Dial | None:
  """What sets theta; None for BSP, which has none, unless the accuracy loss is to be measured."""
  rounds, _ = _lengths(config)
  scout = _make_scout(config)
  match config.algorithm:
    case "bsp":
      return Dial(np.zeros(rounds, np.float32), scout=scout) if scout else None
    case "dgc":
      final = _or(config.sparsity, STAGES[-1])
      if not 0 <= final < 1:
        raise UserError(f"--sparsity is {final}; it must be from 0 to below 1.")
      each = _or(config.sparsity_warmup_rounds, 0)
      return Dial(stages(rounds, STAGES, each, final), scout=scout)
    case _:
      theta = _theta(config)
      values = np.full(rounds, theta, np.float32)
      return Dial(values, follows_rate=config.algorithm == "gaia", scout=scout)


def _theta(config: DecentralizedFlags) -> float:
  """The theta that does not change, but for Gaia's with the rate."""
  match config.algorithm:
    case "gaia":
      _at_least(config, 0, "threshold")
      return _or(config.threshold, 0.1)
    case "fedavg":
      _at_least(config, 1, "local_steps")
      return float(_or(config.local_steps, 20))
    case _:
      return 0.0


def _make_scout(config: DecentralizedFlags) -> SkewScout | None:
  name, whole = config.algorithm, config.algorithm == "fedavg"
  if config.skewscout == "off":
    _refuse(config, ("scout_every", "scout_examples", *_SCOUT_FLAGS), "--skewscout")
    _refuse(config, ("scout_temperature",), "--skewscout=annealing")
    return None
  every = _or(config.scout_every, 500)
  if config.skewscout == "measure":
    _refuse(config, _SCOUT_FLAGS, "a search as --skewscout")
    return SkewScout((_theta(config),), search=None, every=every, whole=whole).check()
  if name == "bsp":
    raise UserError(
      f"bsp always sends everything, so --skewscout={config.skewscout} has nothing to choose; use "
      "another --algorithm, or --skewscout=measure."
    )
  _refuse(config, _THETAS, "--skewscout=off or measure")
  if config.skewscout != "annealing":
    _refuse(config, ("scout_temperature",), "--skewscout=annealing")
  grid = GRIDS[name]
  if config.scout_grid is not None:
    grid = numbers(config, "scout_grid", float)
    least, most = (1.0, np.inf) if whole else (0.0, 1.0 if name == "dgc" else np.inf)
    if not all(least <= theta < most and (not whole or theta.is_integer()) for theta in grid):
      raise UserError(f"--scout_grid is {config.scout_grid!r}, not all of it a theta of {name}.")
  start = _or(config.scout_start, grid[0])
  if start not in grid:
    raise UserError(f"--scout_start is {start:g}, which the grid {grid} lacks.")
  return SkewScout(
    grid,
    name == "dgc",
    config.skewscout,
    grid.index(start),
    every,
    whole,
    _or(config.scout_lambda_al, 50.0),
    _or(config.scout_lambda_c, 1.0),
    _or(config.scout_sigma_al, 0.05),
    _or(config.scout_temperature, 0.5),
    seed=config.seed,
  ).check()


def _kept(config: FedAvgFlags) -> str:
  """Momentum stays with the clients where all of them take part, as one state each is kept."""
  return "local" if config.momentum and config.cohort is None else "reset"


def make_fedavg_config(config: FedAvgFlags) -> FedAvgConfig:
  """FedAvg's options."""
  if not config.momentum:
    _refuse(config, ("client_momentum",), "--momentum above 0")
  if config.server_optimizer != "momentum":
    _refuse(config, ("server_momentum",), "--server_optimizer=momentum")
  if config.fedbn and config.batch_stats not in (None, "local"):
    raise UserError(
      f"--fedbn keeps the statistics on the client, which --batch_stats={config.batch_stats} "
      "denies; drop one of them."
    )
  return FedAvgConfig(
    local=make_local(config, config.prox),
    local_steps=_or(config.local_steps, None if config.local_epochs else 1),
    local_epochs=config.local_epochs,
    weighting=config.weighting,
    client_momentum=config.client_momentum or _kept(config),
    server_optimizer=config.server_optimizer,
    server_rate=config.server_lr,
    server_momentum=_or(config.server_momentum, 0.9),
    batch_stats=config.batch_stats or ("local" if config.fedbn else "mean"),
    fedbn=config.fedbn,
  )


def make_loop(config: Config, seed: int) -> LoopConfig:
  """The run's length and one of its seeds."""
  cohort = config.cohort if isinstance(config, FedAvgFlags) else None
  for name, value in (("cohort", cohort), ("clients", config.clients)):
    if value is not None and value < 1:
      raise UserError(f"--{name} is {value}; it must be at least 1.")
  return LoopConfig(*_lengths(config), _or(cohort, 0), seed)


def make_schedule(config: Config) -> Schedule:
  """The learning rate over rounds."""
  kind = config.lr_schedule
  if kind not in ("step", "exponential", "plateau"):
    _refuse(config, ("lr_factor",), "--lr_schedule=step, exponential or plateau")
  if not config.lr_warmup_rounds:
    _refuse(config, ("lr_warmup_from",), "a warm-up")
  if kind != "polynomial":
    _refuse(config, ("lr_power",), "--lr_schedule=polynomial")
  if kind != "step":
    _refuse(config, ("lr_boundaries",), "--lr_schedule=step")
  boundaries = numbers(config, "lr_boundaries", int) if config.lr_boundaries else ()
  rounds, _ = _lengths(config)
  if boundaries and max(boundaries) >= rounds:
    raise UserError(
      f"--lr_boundaries has round {max(boundaries)}, which a run of {rounds} rounds never reaches."
    )
  if config.lr_warmup_rounds > rounds:
    raise UserError("--lr_warmup_rounds is longer than the run; shorten it.")
  return Schedule(
    config.lr,
    "constant" if kind == "plateau" else kind,
    config.lr_warmup_rounds,
    boundaries,
    _or(config.lr_factor, 0.1),
    _or(config.lr_power, 1.0),
    _or(config.lr_warmup_from, 0.0),
  )


def make_plateau(config: Config) -> Plateau | None:
  """The policy of ``--lr_schedule=plateau``, or None for other schedules."""
  if config.lr_schedule != "plateau":
    _refuse(config, ("lr_patience",), "--lr_schedule=plateau")
    return None
  plateau = Plateau(
    _or(config.lr_factor, 0.1), _or(config.lr_patience, 3), start=config.lr_warmup_rounds
  )
  return plateau.check()


_FREEZE_FLAGS = (
  "freeze_round",
  "freeze_lr_factor",
  "freeze_clip_norm",
  "freeze_affine",
  "freeze_tolerance",
)


def make_freeze(config: Config) -> FreezeConfig | None:
  """FixBN's second stage, or None for other norms."""
  if config.norm != "fixbn":
    _refuse(config, _FREEZE_FLAGS, "--norm=fixbn")
    return None
  text = _or(config.freeze_round, "half")
  at: int | str = text
  if text not in ("half", "auto"):
    try:
      at = int(text)
    except ValueError:
      raise UserError(f"--freeze_round is {text!r}; give a round, half or auto.") from None
  if at != "auto":
    _refuse(config, ("freeze_tolerance",), "--freeze_round=auto")
  return FreezeConfig(
    at,
    _or(config.freeze_lr_factor, 0.2),
    config.freeze_clip_norm,
    config.freeze_affine,
    _or(config.freeze_tolerance, 0.1),
  )


def make_diagnostics(config: Config) -> DiagnosticsConfig | None:
  """How much diagnostics look at, or None where they are not asked for."""
  if not config.diagnostics:
    _refuse(config, ("diagnostics_layer", "diagnostics_batches"), "--diagnostics")
    return None
  return DiagnosticsConfig(config.diagnostics_layer, _or(config.diagnostics_batches, 100))


def make_fine_tune(config: Config) -> FineTune | None:
  """What clients do with the model before they are tested, or None."""
  if config.fine_tune_steps is None:
    _refuse(config, ("fine_tune_lr",), "--fine_tune_steps")
    return None
  return FineTune(config.fine_tune_steps, _or(config.fine_tune_lr, config.lr))


def make_options(config: Config) -> dict[str, Any]:
  """What the program of every algorithm takes (see ``programs.assemble``)."""
  return {
    "freeze": make_freeze(config),
    "plateau": make_plateau(config),
    "eval_batch_size": config.eval_batch_size,
    "evaluate_clients": config.evaluate_clients,
    "data_on": config.data_on,
    "diagnostics": make_diagnostics(config),
    "fine_tune": make_fine_tune(config),
    **({"network": config.network} if config.network else {}),
  }


def make_mapping(config: Config) -> dict[str, Any]:
  """How nodes are mapped, for algorithms of which several compute at a time."""
  return {"backend": config.backend, "chunk": config.chunk}


def program(
  make: Callable[..., Program], algorithm: Any, config: Config, **options: Any
) -> Callable[[Task], Program]:
  """An algorithm's program as the flags say, but for the task.

  Args:
    make: of ``training/programs.py``.
    algorithm: its own options.
    config: the flags, lengths in rounds.
    **options: further ones of ``make``.
  """
  return functools.partial(
    make,
    config=algorithm,
    loop=make_loop(config, config.seed),
    schedule=make_schedule(config),
    **make_options(config),
    **options,
  )


def sizes_are_compiled(config: Config) -> bool:
  """Whether a program is for clients of certain sizes, so that another seed's needs its own."""
  if config.network and config.batch_stats == "recalibrate":
    return True
  if isinstance(config, SsgdFlags):
    return config.batch_split == "proportional"
  if isinstance(config, FedAvgFlags):
    return config.freeze_round == "auto" and config.local_epochs is not None
  return False
