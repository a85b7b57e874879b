"""The flags of the binaries, as one frozen dataclass.

A flag that is not given is None where its default depends on others, so that one that is given and
would do nothing can be refused.
"""

import dataclasses
import importlib.metadata
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fedjax_norm import norm
from fedjax_norm.algorithms import asgd, dgc, fedavg, periodic, ssgd
from fedjax_norm.algorithms.statistics import POLICIES
from fedjax_norm.control.skewscout import SEARCHES
from fedjax_norm.data.augment import SHIFT_KINDS
from fedjax_norm.data.csv_index import REGIONS
from fedjax_norm.data.order import BATCH_ORDERS, DRIFTS
from fedjax_norm.data.partition import OPTIONS
from fedjax_norm.data.preprocess import AUGMENTATIONS, COMPUTE_DTYPES
from fedjax_norm.errors import UserError
from fedjax_norm.models import MODELS
from fedjax_norm.nodes import BACKENDS
from fedjax_norm.training.feed import DATA_ON
from fedjax_norm.training.schedule import SCHEDULES

ALGORITHMS = ("bsp", "gaia", "fedavg", "dgc")
"""Of ``experiments.decentralized``."""


def _flag(define: Callable[..., Any], default: Any, text: str, **options: Any) -> Any:
  """A dataclass field that knows how to define its flag."""
  return dataclasses.field(default=default, metadata={"define": define, "help": text, **options})


def _integer(default, text, **options):
  return _flag(flags.DEFINE_integer, default, text, **options)


def _float(default, text):
  return _flag(flags.DEFINE_float, default, text)


def _boolean(default, text):
  return _flag(flags.DEFINE_boolean, default, text)


def _string(default, text):
  return _flag(flags.DEFINE_string, default, text)


def _choice(default, choices: Sequence[str], text):
  return _flag(flags.DEFINE_enum, default, text, enum_values=list(choices))


@dataclasses.dataclass(frozen=True)
class DataFlags:
  """What is learnt, and who holds it; a field a flag."""

  data: str = _string(
    "digits",
    "digits, synthetic[:key=value,...], identities[:key=value,...], npy:PATH, npz:PATH, "
    "folder:PATH, csv:PATH, or a prepared TFDS set (mnist, cifar10, cifar100, tiny_imagenet, ...; "
    "needs --data_dir).",
  )
  data_dir: str | None = _string(None, "The folder of prepared TFDS sets.")
  region: str | None = _choice(
    None,
    REGIONS,
    "A natural client of a csv: index: a continent or subcontinent (M49), a country, or what its "
    "column region says; the continent by default, or the column where there are no countries.",
  )
  min_region_size: int = _integer(
    0, "Regions of a csv: index with fewer images are left out, whatever the partition."
  )
  clients: int | None = _integer(
    None, "Clients in the federation; 10 by default, or those of a natural partition."
  )
  partition: str = _choice("classes", tuple(OPTIONS), "How examples are divided over clients.")
  classes_per_client: int | None = _integer(
    None,
    "Classes a client holds, for --partition=classes; as few as make all of them held by default.",
  )
  ratio: float | None = _float(None, "R of paper 000, 0 to 0.5 and more, for --partition=ratio.")
  fraction: float | None = _float(None, "What is divided by label, for --partition=skew.")
  dominant_share: float | None = _float(None, "Of the main class, for --partition=dominant.")
  alpha: float | None = _float(None, "Concentration, for --partition=dirichlet or quantity.")
  exponent: float | None = _float(None, "Of the power law of sizes, for --partition=quantity.")
  min_size: int | None = _integer(None, "Least examples a client, for dirichlet and quantity.")


@dataclasses.dataclass(frozen=True)
class Config(DataFlags):
  """What every run is told; a field a flag."""

  # Not flags: what trains, whether over several processes, and its usual rounds in all and between
  # evaluations.
  algorithm = ""
  several_processes = True
  usual = (600, 50)

  # What is learnt, how it is shown, and what else differs between clients.
  task: str = _choice(
    "classification",
    ("classification", "verification"),
    "What test images are put to: classes, or pairs of the same and of different identities, told "
    "apart by their embeddings.",
  )
  image_size: int | None = _integer(None, "Resizes images to this many pixels square.")
  standardise: bool = _boolean(True, "Whether channels get mean 0 and deviation 1.")
  augment: str = _choice(
    "none", AUGMENTATIONS, "Whether training images are cropped, and mirrored, at random."
  )
  feature_shift: str | None = _choice(
    None, SHIFT_KINDS, "What differs between clients, for --partition=feature; noise by default."
  )
  feature_scale: float | None = _float(None, "The largest feature shift; 1 by default.")
  batch_order: str = _choice(
    "shuffled",
    BATCH_ORDERS,
    "How a client goes through an epoch: at random, by label, or as its examples lie in the "
    "source, so that what a batch holds is alike.",
  )
  order_block: int | None = _integer(
    None,
    "Examples in a row that --batch_order keeps together, in blocks at random; all by default.",
  )
  drift: str = _choice(
    "none",
    DRIFTS,
    "What a client draws from changes over the rounds: its examples, by label or as they lie in "
    "the source, are divided into stretches that take turns.",
  )
  drift_stretches: int | None = _integer(None, "How many --drift has; 2 by default.")
  drift_rounds: int | None = _integer(
    None, "Rounds that each lasts; as long as makes a run go through them once by default."
  )
  relabelled: float | None = _float(
    None, "The share of clients that call every class another one; the test set does not."
  )

  # The model and its norm.
  model: str = _choice("tiny", tuple(MODELS), "The model.")
  stem: str = _choice(
    "auto",
    ("auto", "cifar", "imagenet"),
    "Of ResNets, alexnet, googlenet and inception_v3; auto by image size.",
  )
  norm: str = _choice("bn", norm.NAMES, "The normalization after each convolution.")
  groups: int | None = _integer(None, "Groups of gn; the model's own default if not given.")
  group_size: int | None = _integer(None, "Channels of a group of gn.")
  mean_only_bn: bool = _boolean(False, "Whether wn also centres with mean-only BN.")
  norm_decay: float | None = _float(None, "What running statistics keep a step; 0.9 by default.")
  norm_epsilon: float | None = _float(None, "Added to variances; 1e-5 by default.")
  brn_r_max: float | None = _float(None, "Batch renormalization's final r_max; 3 by default.")
  brn_d_max: float | None = _float(None, "Batch renormalization's final d_max; 5 by default.")
  brn_ramp: str | None = _string(
    None,
    "Batch renormalization's ramps as three fractions of all rounds: their start, the end of "
    "d_max's, the end of r_max's; Ioffe's 0.04,0.2,0.3 by default.",
  )

  # Training.
  rounds: int | None = _integer(
    None,
    "Rounds of communication, 600 by default; of SSGD steps of all workers, of ASGD arrivals, 3000 "
    "by default.",
  )
  batch_size: int = _integer(32, "Examples of a client's step.")
  accumulate: int = _integer(
    1, "Parts in which a batch goes through the model, one after another; gradients add up."
  )
  lr: float = _float(0.05, "The learning rate.")
  lr_schedule: str = _choice(
    "constant",
    (*SCHEDULES, "plateau"),
    "The learning rate over rounds; plateau lowers it when the training loss stops falling.",
  )
  lr_warmup_rounds: int = _integer(0, "Rounds of linear warm-up.")
  lr_warmup_from: float | None = _float(
    None, "The rate that the warm-up rises from; 0 by default, or --lr before --scale_lr_from."
  )
  lr_boundaries: str | None = _string(
    None,
    "Rounds at which --lr_schedule=step multiplies the rate; with --epochs, epochs.",
  )
  lr_factor: float | None = _float(
    None, "Of step at a boundary, of exponential over the run, of plateau; 0.1 by default."
  )
  lr_patience: int | None = _integer(
    None, "Evaluations in a row without a fall before plateau acts; 3 by default."
  )
  lr_power: float | None = _float(None, "Of --lr_schedule=polynomial; 1 by default.")
  momentum: float = _float(0.9, "Of SGD: the clients' of FedAvg, the master's of SSGD.")
  nesterov: bool = _boolean(False, "Whether the momentum looks ahead.")
  weight_decay: float = _float(5e-4, "Of the same SGD.")
  clip_norm: float = _float(0.0, "The greatest norm of a gradient; 0 for no clipping.")
  batch_stats: str | None = _choice(
    None,
    POLICIES,
    "How running statistics are combined: mean (default), moments (keeps the variance between "
    "clients), local (SiloBN), recalibrate.",
  )

  # FixBN's second stage.
  freeze_round: str | None = _string(None, "FixBN's T*: a round, half (default) or auto.")
  freeze_lr_factor: float | None = _float(None, "Of the rate after the freeze; 0.2 by default.")
  freeze_clip_norm: float | None = _float(
    None,
    "Clips gradients after the freeze, 0 for no clipping; 1 or a tighter --clip_norm by default.",
  )
  freeze_affine: bool = _boolean(False, "Whether gamma and beta freeze too.")
  freeze_tolerance: float | None = _float(
    None, "--freeze_round=auto: the movement, in deviations, that counts as rest; 0.1 by default."
  )

  # The run.
  seed: int = _integer(0, "Of everything random.")
  seeds: int = _integer(1, "Runs with as many seeds, from --seed on; mean and deviation are told.")
  eval_every: int | None = _integer(
    None,
    "Rounds between evaluations, 50 by default, of ASGD 250; with --epochs, epochs, 1 by default.",
  )
  eval_batch_size: int = _integer(256, "Test examples a batch.")
  evaluate_clients: int = _integer(
    0, "Clients evaluated on their own mix of labels; up to 10 with --fine_tune_steps."
  )
  fine_tune_steps: int | None = _integer(
    None,
    "Local steps that each of them fine-tunes the model for on its own data, to be tested beside "
    "the model as it is.",
  )
  fine_tune_lr: float | None = _float(None, "The rate of --fine_tune_steps; --lr by default.")
  diagnostics: bool = _boolean(
    False,
    "Whether evaluations also measure how the clients' data, models and updates are apart (paper "
    "004): diagnostics.csv and a picture.",
  )
  diagnostics_layer: str | None = _string(
    None, "The norm position whose channels --diagnostics tells one by one; the first by default."
  )
  diagnostics_batches: int | None = _integer(
    None, "Minibatches of a client that --diagnostics takes moments of; 100 by default."
  )
  workdir: str | None = _string(None, "The run's folder; a new one under runs/ by default.")
  resume: bool = _boolean(True, "Whether to go on with a run that --workdir holds.")
  progress: bool = _boolean(True, "Whether to draw a progress bar.")

  # The machine.
  compute_dtype: str = _choice(
    "float32",
    COMPUTE_DTYPES,
    "What activations are computed in; parameters, statistics and sums stay float32. bfloat16 is "
    "for accelerators.",
  )
  compilation_cache: bool = _boolean(
    True,
    "Whether compiled programs are kept for the next start, in the user's cache folder or the one "
    "that JAX_COMPILATION_CACHE_DIR names.",
  )
  backend: str = _choice("auto", BACKENDS, "How clients are mapped.")
  chunk: int | None = _integer(None, "Clients of a device at once; 0 for all.")
  data_on: str = _choice(
    "auto",
    DATA_ON,
    "Where training images stay: on the device, or on the host, from where those of the next "
    "rounds' clients are fetched ahead; auto by the memory. Changes no result.",
  )
  host_devices: int | None = _integer(
    None, "CPU devices to divide clients over; the cores, up to the cohort, by default."
  )

  # Several processes, one a host.
  coordinator_address: str | None = _string(
    None, "HOST:PORT of process 0, for a run of several processes."
  )
  num_processes: int | None = _integer(None, "How many processes the run has.")
  process_id: int | None = _integer(None, "Which of them this is, from 0.")

  # The simulated network.
  network: str | None = _string(
    None, "Tells what a run would take under lan, wan, mobile, or the profile of a CSV file."
  )

  def saved(self) -> dict[str, Any]:
    """What identifies a run, as in ``config.json``: all but what changes no result.

    The package's version is among it, for defaults can change.
    """
    apart = (
      "workdir",
      "resume",
      "progress",
      "data_on",
      "compilation_cache",
      "coordinator_address",
      "process_id",
      *(() if self.seeds > 1 else ("seeds",)),
    )
    given = {key: value for key, value in dataclasses.asdict(self).items() if key not in apart}
    if self.network and Path(self.network).is_file():
      given["network"] = f"{self.network} {zlib.crc32(Path(self.network).read_bytes()):08x}"
    try:
      version = importlib.metadata.version("fedjax_norm")
    except importlib.metadata.PackageNotFoundError:  # run from its sources, without an install
      version = "unknown"
    return {**given, "algorithm": self.algorithm, "version": version}


@dataclasses.dataclass(frozen=True)
class FedAvgFlags(Config):
  """What a run of FedAvg is told besides."""

  algorithm = "fedavg"

  cohort: int | None = _integer(None, "Clients a round; all by default.")
  local_steps: int | None = _integer(None, "Local steps a round; 1 by default.")
  local_epochs: int | None = _integer(None, "Passes over a client's data a round, instead.")
  client_momentum: str | None = _choice(
    None,
    fedavg.MOMENTA,
    "What becomes of the clients' momentum after a round; local by default if all take part, else "
    "reset.",
  )
  prox: float = _float(0.0, "mu of FedProx.")
  weighting: str = _choice("examples", fedavg.WEIGHTINGS, "Of clients in the average.")
  server_optimizer: str = _choice("sgd", fedavg.SERVER_OPTIMIZERS, "Of the averaged change.")
  server_lr: float = _float(1.0, "The server's learning rate.")
  server_momentum: float | None = _float(None, "Of --server_optimizer=momentum; 0.9 by default.")
  fedbn: bool = _boolean(False, "FedBN: norm parameters and statistics stay on the client.")


@dataclasses.dataclass(frozen=True)
class StepwiseFlags(Config):
  """What a run is told besides whose rounds are steps of the joint model."""

  epochs: int | None = _integer(
    None, "Passes over all the data, instead of --rounds; --eval_every counts them too then."
  )
  lr_warmup_epochs: int | None = _integer(None, "Epochs of warm-up, instead of rounds.")
  scale_lr_from: int | None = _integer(
    None, "Linear scaling: --lr is for a joint batch of this size and grows with the real one."
  )


@dataclasses.dataclass(frozen=True)
class SsgdFlags(StepwiseFlags):
  """What a run of SSGD is told besides."""

  algorithm = "ssgd"

  weighting: str = _choice(
    "examples", ssgd.WEIGHTINGS, "Of gradients in the average: examples (eq. 8) or uniform (eq. 5)."
  )
  batch_split: str = _choice(
    "equal",
    ssgd.BATCH_SPLITS,
    "How the joint batch is divided: --batch_size each, or proportional to the workers' data.",
  )


@dataclasses.dataclass(frozen=True)
class DecentralizedFlags(StepwiseFlags):
  """What a run of paper 004's algorithms is told besides."""

  several_processes = False

  algorithm: str = _choice(
    "bsp",
    ALGORITHMS,
    "bsp sends all, gaia what is significant, fedavg averages models now and "
    "then, dgc sends the largest updates.",
  )
  reduction: str | None = _choice(
    None,
    ssgd.REDUCTIONS,
    "Of bsp: the sum of the partitions' updates, as gaia and dgc add them up (default), or their "
    "mean, as fedavg has it.",
  )
  threshold: float | None = _float(
    None,
    "Gaia's T_0: updates above this share of a weight are sent; 0.1 by default. It falls "
    "with the learning rate.",
  )
  local_steps: int | None = _integer(None, "FedAvg's Iter_Local, 20 by default.")
  client_momentum: str | None = _choice(
    None, periodic.MOMENTA, "Of fedavg after an average: local (default) or reset."
  )
  sparsity: float | None = _float(
    None, "DGC's final s: the share of a tensor that is not sent; 0.999 by default."
  )
  sparsity_warmup_epochs: int | None = _integer(
    None, "E_warm: epochs of each of DGC's stages 75, 93.75, 98.4375, 99.6 and 99.9%."
  )
  sparsity_warmup_rounds: int | None = _integer(None, "The same in rounds; 0 by default.")
  selection: str | None = _choice(
    None, dgc.SELECTIONS, "DGC's threshold: exact (default), or that of a sample."
  )
  momentum_masking: bool | None = _boolean(
    None, "Whether what DGC sends loses its momentum; true by default."
  )

  # SkewScout.
  skewscout: str = _choice(
    "off",
    ("off", "measure", *SEARCHES),
    "Whether models travel to be tested elsewhere, and theta is chosen by how they do: with hill "
    "climbing, stochastic hill climbing or simulated annealing; measure leaves theta alone.",
  )
  scout_every: int | None = _integer(None, "Mini-batches between looks; 500 by default.")
  scout_examples: int | None = _integer(None, "Training examples a model is tested on; 256.")
  scout_grid: str | None = _string(
    None, "The thetas to choose from, with commas; those of tables 6 to 8 by default."
  )
  scout_start: float | None = _float(None, "The theta to begin with; the first of the grid.")
  scout_lambda_al: float | None = _float(None, "The weight of the accuracy loss; 50 by default.")
  scout_lambda_c: float | None = _float(None, "The weight of communication; 1 by default.")
  scout_sigma_al: float | None = _float(None, "The accuracy loss tolerated; 0.05 by default.")
  scout_temperature: float | None = _float(
    None, "Of annealing at the first look; 0.5 by default, and 0.9 of it at every further look."
  )


@dataclasses.dataclass(frozen=True)
class OracleFlags(DecentralizedFlags):
  """What the Oracle of paper 004 is told besides."""

  oracle_tolerance: float = _float(1.0, "Points of accuracy below BSP's that count as equal.")
  oracle_fractions: str = _string(
    "0.2,0.6,1.0", "Degrees of skew: the shares of the data that are divided by label."
  )


@dataclasses.dataclass(frozen=True)
class AsgdFlags(StepwiseFlags):
  """What a run of asynchronous SGD is told besides."""

  algorithm = "asgd"
  several_processes = False
  usual = (3000, 250)

  delay_compensation: str = _choice(
    "none",
    asgd.COMPENSATIONS,
    "Of a late gradient g: g + lambda g g (w - w_bak), lambda constant or adaptive.",
  )
  delay_lambda: float | None = _float(
    None, "lambda_0; 0.04 for constant and 2 for adaptive by default."
  )
  delay_decay: float | None = _float(
    None, "What adaptive's mean square of gradients keeps a step; 0.95 by default."
  )


@dataclasses.dataclass(frozen=True)
class RegionsFlags(DataFlags):
  """What the table of the classes by region is told besides."""

  top: int = _integer(5, "Classes a region in the table.")
  seed: int = _integer(0, "Of a partition that is drawn.")
  output: str = _string("regions", "The folder of the CSV files and pictures.")


@dataclasses.dataclass(frozen=True)
class PaperFlags:
  """What the runner of the papers' tables is told."""

  tables: str = _string(
    "all",
    "Which, with commas between: 000.1, 004.fig5, or 004.6 for all that begin so; all by default.",
  )
  scale: str = _choice(
    "smoke",
    ("smoke", "small", "full"),
    "smoke: on digits, minutes in all; small: on CIFAR-10, minutes a run; full: the "
    "papers' settings, for a GPU.",
  )
  data_dir: str | None = _string(None, "The folder of prepared TFDS sets, for small and full.")
  workdir: str | None = _string(None, "Where runs and results go; runs/paper-SCALE by default.")
  seed: int = _integer(0, "Of everything random, in every run.")
  progress: bool = _boolean(True, "Whether to draw a progress bar of each run.")
  compilation_cache: bool = _boolean(True, "Whether compiled programs are kept for the next start.")


def define(config: type = Config, values: flags.FlagValues = flags.FLAGS, **defaults: Any) -> None:
  """Defines the flags of a config's fields.

  Args:
    config: the dataclass.
    values: where the flags are defined.
    **defaults: other defaults than the class's, for a binary of its own.
  """
  for field in dataclasses.fields(config):
    options = dict(field.metadata)
    definer, text = options.pop("define"), options.pop("help")
    positional = (options.pop("enum_values"),) if "enum_values" in options else ()
    default = defaults.get(field.name, field.default)
    definer(field.name, default, *positional, text, flag_values=values, **options)


def parse(config: type = Config, values: flags.FlagValues = flags.FLAGS) -> Any:
  """The config that the parsed flags make.

  Raises:
    UserError: a number that is not finite.
  """
  given = {field.name: values[field.name].value for field in dataclasses.fields(config)}
  for name, value in given.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"--{name} is {value}; it must be a finite number.")
  return config(**given)
