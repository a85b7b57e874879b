"""From a config to the library's objects; what a flag cannot mean is refused here."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.checks import at_least, given, lengths, numbers, refuse
from experiments.flags import (
  AsgdFlags,
  Config,
  DataFlags,
  DecentralizedFlags,
  FedAvgFlags,
  SsgdFlags,
  StepwiseFlags,
  TurnFlags,
)
from fedjax_norm import models, norm
from fedjax_norm.algorithms.asgd import AsgdConfig
from fedjax_norm.algorithms.fedavg import FedAvgConfig
from fedjax_norm.algorithms.ssgd import SsgdConfig
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.data import partition, sources
from fedjax_norm.data.examples import Source, sample
from fedjax_norm.data.files import Labels
from fedjax_norm.data.order import Order
from fedjax_norm.data.partition import Partition
from fedjax_norm.data.preprocess import Preprocess
from fedjax_norm.data.relabel import relabel
from fedjax_norm.data.unlabelled import hide
from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalConfig
from fedjax_norm.norm import NormSpec, Renorm
from fedjax_norm.objectives import OBJECTIVES
from fedjax_norm.split.members import Choice
from fedjax_norm.training.diagnose import DiagnosticsConfig
from fedjax_norm.training.loop import LoopConfig, Program
from fedjax_norm.training.personalise import FineTune
from fedjax_norm.training.programs import FreezeConfig
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.task import Task, make_task

Mine = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def make_source(config: Config, mine: Mine | None = None) -> Source:
  """Loads the data.

  Args:
    config: the flags.
    mine: (labels, natural clients) -> the ids of the training examples to read; None is all.
  """
  at_least(config, 1, "image_size")
  if config.train_share is not None and mine is not None:
    raise UserError("--train_share is for one process; drop it or --num_processes.")
  open_set = config.task == "verification"
  source = sources.load(
    config.data,
    image_size=config.image_size,
    mine=mine,
    open_set=open_set,
    objective=make_objective(config),
    **_data_options(config),
  )
  if config.train_share is None:
    return source
  return source._replace(train=sample(source.train, config.train_share, config.seed))


def make_objective(config: Config) -> str:
  """What the model is trained to say; identities to verify are learnt as classes."""
  return config.task if config.task in OBJECTIVES else "classification"


def make_labels(config: DataFlags) -> Labels:
  """The labels and natural clients of the training examples, without their images."""
  return sources.load_labels(config.data, **_data_options(config))


def _data_options(config: DataFlags) -> dict[str, Any]:
  builtin = config.data in sources.BUILT_IN or config.data.startswith(
    ("synthetic:", "identities", "npy:", "npz:", "folder:", "csv:")
  )
  if builtin:
    refuse(config, ("data_dir",), "a prepared TFDS set as --data")
  at_least(config, 0, "min_region_size")
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
  refuse(config, others, "another --partition")
  options: dict[str, Any] = {
    name: getattr(config, name)
    for name in _PARTITION_FLAGS
    if name in known and getattr(config, name) is not None
  }
  clients = given(config.clients, 10)
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
      given(config.brn_r_max, 3.0),
      given(config.brn_d_max, 5.0),
      *(fraction * lengths(config)[0] for fraction in (start, r_end, d_end)),
    )
  else:
    refuse(config, ramps, "--norm=brn")
  spec = norm.create(
    config.norm,
    **options,
    mean_only_bn=config.mean_only_bn,
    decay=given(config.norm_decay, 0.9),
    epsilon=given(config.norm_epsilon, 1e-5),
  )
  if not spec.has_running_statistics or config.batch_stats == "recalibrate":
    refuse(config, ("norm_decay",), "running statistics that are moving averages")
  if not spec.normalizes or not spec.scale:
    refuse(config, ("norm_epsilon",), "a norm that divides by a deviation")
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
  at_least(config, 1, "rounds", "eval_every", "batch_size")
  rounds, every = lengths(config)
  if not isinstance(config, StepwiseFlags):
    return dataclasses.replace(config, rounds=rounds, eval_every=every)
  at_once = config.batch_size * (1 if isinstance(config, AsgdFlags) else clients)
  rate, start = config.lr, config.lr_warmup_from
  if config.scale_lr_from is not None:
    at_least(config, 1, "scale_lr_from")
    rate *= at_once / config.scale_lr_from
    if start is None and rate > config.lr and (config.lr_warmup_rounds or config.lr_warmup_epochs):
      start = config.lr
  config = dataclasses.replace(config, lr=rate, lr_warmup_from=start, scale_lr_from=None)
  epoch = -(-examples // at_once)
  if isinstance(config, DecentralizedFlags) and config.sparsity_warmup_epochs is not None:
    at_least(config, 0, "sparsity_warmup_epochs")
    if config.sparsity_warmup_rounds is not None:
      raise UserError("give --sparsity_warmup_epochs or --sparsity_warmup_rounds, not both.")
    each = config.sparsity_warmup_epochs * epoch
    config = dataclasses.replace(config, sparsity_warmup_epochs=None, sparsity_warmup_rounds=each)
  if config.epochs is None:
    refuse(config, ("lr_warmup_epochs",), "--epochs")
    return dataclasses.replace(config, rounds=rounds, eval_every=every)
  at_least(config, 1, "epochs", "lr_warmup_epochs")
  if config.rounds or (config.lr_warmup_rounds and config.lr_warmup_epochs):
    raise UserError("give lengths in epochs or in rounds, not the same one in both.")
  boundaries = config.lr_boundaries
  if boundaries is not None:
    boundaries = ",".join(str(at * epoch) for at in numbers(config, "lr_boundaries", int))
  return dataclasses.replace(
    config,
    rounds=config.epochs * epoch,
    lr_boundaries=boundaries,
    eval_every=given(config.eval_every, 1) * epoch,
    lr_warmup_rounds=config.lr_warmup_rounds or given(config.lr_warmup_epochs, 0) * epoch,
    epochs=None,
    lr_warmup_epochs=None,
  )


def make_preprocess(config: Config) -> Preprocess:
  """What happens to an image before the model sees it."""
  shift = None
  if config.partition == "feature":
    shift = config.feature_shift or "noise"
  else:
    refuse(config, ("feature_shift", "feature_scale"), "--partition=feature")
  preprocess = Preprocess(
    config.standardise,
    config.augment,
    shift,
    config.compute_dtype,
    config.whiten,
    config.subtract,
    given(config.zca_epsilon, 0.1),
  )
  if not preprocess.zca:
    refuse(config, ("zca_epsilon",), "--whiten=zca or gcn_zca")
  if preprocess.by_pixel and config.num_processes:
    raise UserError(
      "--whiten=zca and --subtract=image need the pixels of all training images, of which each of "
      "several processes reads its own; drop them or --num_processes."
    )
  return preprocess


def make_task_of(
  config: Config,
  source: Source,
  division: Partition,
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> Task:
  """The task of one seed (see ``task.make_task``)."""
  if config.relabelled is not None:
    if make_objective(config) != "classification":
      raise UserError(f"--relabelled does nothing to the targets of {config.task}; drop it.")
    if config.evaluate_clients or config.fine_tune_steps or config.diagnostics:
      raise UserError(
        "--relabelled leaves test labels as they are, so clients cannot be tested by their own; "
        "drop it, or --evaluate_clients, --fine_tune_steps and --diagnostics."
      )
    train, classes = source.train, len(source.class_names)
    named = relabel(train.labels, division, classes, config.relabelled, config.seed)
    source = source._replace(train=train._replace(labels=named))
  labelled = getattr(config, "labelled", None)  # of split learning alone
  if labelled is not None and labelled != 1:
    if make_objective(config) != "classification":
      raise UserError(f"--labelled hides classes, and --task is {config.task}; drop one of them.")
    train = source.train
    known = hide(train.labels, division, labelled, config.seed)
    source = source._replace(train=train._replace(labels=known))
  return make_task(
    source,
    division,
    make_norm(config),
    config.model,
    preprocess=make_preprocess(config),
    feature_scale=given(config.feature_scale, 1.0),
    stem=config.stem,
    statistics=statistics,
    verification=config.task == "verification",
    order=make_order(config, partition.sizes(division)),
    objective=make_objective(config),
    members=make_members(config),
  )


def make_members(config: Config) -> tuple[Choice, ...]:
  """The members of ``--members``; none without.

  Raises:
    UserError: a text that names none, or an unknown model.
  """
  if config.members is None:
    return ()
  choices = []
  for text in config.members.split(","):
    model, *cuts = (part.strip() for part in text.split(":"))
    if not 1 <= len(cuts) <= 2 or not all(cuts):
      raise UserError(
        f"--members has {text!r}; write each member as MODEL:CUT, or MODEL:CUT:TAIL in the U-shape."
      )
    models.entry(model)  # refuses one that is unknown
    norm = make_norm(dataclasses.replace(config, model=model))
    choices.append(Choice(model, norm, *cuts))
  return tuple(choices)


def make_order(config: Config, sizes: np.ndarray) -> Order:
  """How clients go through their examples.

  Args:
    config: the flags, lengths in rounds.
    sizes: [K] the examples of each.
  """
  if config.batch_order == "shuffled":
    refuse(config, ("order_block",), "--batch_order=label or source")
  if config.drift == "none":
    refuse(config, ("drift_stretches", "drift_rounds"), "--drift=label or source")
    return Order(config.batch_order, config.order_block)
  if isinstance(config, AsgdFlags):
    raise UserError("a round of asgd is one worker's, so --drift has no rounds to go by; drop it.")
  stretches = given(config.drift_stretches, 2)
  at_least(config, 2, "drift_stretches")
  at_least(config, 1, "drift_rounds")
  whole = lengths(config)[0]
  rounds = min(given(config.drift_rounds, -(-whole // stretches)), whole)
  steps: int | np.ndarray = 1
  if isinstance(config, TurnFlags):
    epochs = config.local_epochs
    steps = epochs * -(-sizes // config.batch_size) if epochs else given(config.local_steps, 1)
  return Order(config.batch_order, config.order_block, config.drift, stretches, rounds * steps)


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
    objective=make_objective(config),
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


def make_loop(config: Config, seed: int) -> LoopConfig:
  """The run's length and one of its seeds."""
  cohort = getattr(config, "cohort", None)
  for name, value in (("cohort", cohort), ("clients", config.clients)):
    if value is not None and value < 1:
      raise UserError(f"--{name} is {value}; it must be at least 1.")
  return LoopConfig(*lengths(config), given(cohort, 0), seed)


def make_schedule(config: Config) -> Schedule:
  """The learning rate over rounds."""
  kind = config.lr_schedule
  if kind not in ("step", "exponential", "plateau"):
    refuse(config, ("lr_factor",), "--lr_schedule=step, exponential or plateau")
  if not config.lr_warmup_rounds:
    refuse(config, ("lr_warmup_from",), "a warm-up")
  if kind != "polynomial":
    refuse(config, ("lr_power",), "--lr_schedule=polynomial")
  if kind != "step":
    refuse(config, ("lr_boundaries",), "--lr_schedule=step")
  boundaries = numbers(config, "lr_boundaries", int) if config.lr_boundaries else ()
  rounds, _ = lengths(config)
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
    given(config.lr_factor, 0.1),
    given(config.lr_power, 1.0),
    given(config.lr_warmup_from, 0.0),
  )


def make_plateau(config: Config) -> Plateau | None:
  """The policy of ``--lr_schedule=plateau``, or None for other schedules."""
  if config.lr_schedule != "plateau":
    refuse(config, ("lr_patience",), "--lr_schedule=plateau")
    return None
  plateau = Plateau(
    given(config.lr_factor, 0.1), given(config.lr_patience, 3), start=config.lr_warmup_rounds
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
    refuse(config, _FREEZE_FLAGS, "--norm=fixbn")
    return None
  text = given(config.freeze_round, "half")
  at: int | str = text
  if text not in ("half", "auto"):
    try:
      at = int(text)
    except ValueError:
      raise UserError(f"--freeze_round is {text!r}; give a round, half or auto.") from None
  if at != "auto":
    refuse(config, ("freeze_tolerance",), "--freeze_round=auto")
  return FreezeConfig(
    at,
    given(config.freeze_lr_factor, 0.2),
    config.freeze_clip_norm,
    config.freeze_affine,
    given(config.freeze_tolerance, 0.1),
  )


def make_diagnostics(config: Config) -> DiagnosticsConfig | None:
  """How much diagnostics look at, or None where they are not asked for."""
  if not config.diagnostics:
    refuse(config, ("diagnostics_layer", "diagnostics_batches"), "--diagnostics")
    return None
  return DiagnosticsConfig(config.diagnostics_layer, given(config.diagnostics_batches, 100))


def make_fine_tune(config: Config) -> FineTune | None:
  """What clients do with the model before they are tested, or None."""
  if config.fine_tune_steps is None:
    refuse(config, ("fine_tune_lr",), "--fine_tune_steps")
    return None
  return FineTune(config.fine_tune_steps, given(config.fine_tune_lr, config.lr))


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


def is_of_a_seed(config: Config) -> bool:
  """Whether a program is for one seed or its clients' sizes, so that another seed needs its own."""
  if getattr(config, "autoencoder", None) is not None or getattr(config, "step_by_step", False):
    return True
  if config.network and config.batch_stats == "recalibrate":
    return True
  if isinstance(config, SsgdFlags):
    return config.batch_split == "proportional"
  if isinstance(config, TurnFlags):
    return config.freeze_round == "auto" and config.local_epochs is not None
  return False
