"""The flags of the binaries, as one frozen dataclass.

A flag that is not given is None where its default depends on others, so that one that is given and
would do nothing can be refused.
"""

import dataclasses
import importlib.metadata
import math
import zlib
from pathlib import Path
from typing import Any, ClassVar

from absl import flags

from experiments.fields import boolean, choice, integer, number, string
from fedjax_norm import norm
from fedjax_norm.algorithms import asgd, dgc, fedavg, periodic, ssgd
from fedjax_norm.algorithms.statistics import POLICIES
from fedjax_norm.control.skewscout import SEARCHES
from fedjax_norm.data.augment import SHIFT_KINDS
from fedjax_norm.data.csv_index import REGIONS
from fedjax_norm.data.order import BATCH_ORDERS, DRIFTS
from fedjax_norm.data.partition import OPTIONS
from fedjax_norm.data.preprocess import AUGMENTATIONS, COMPUTE_DTYPES, SUBTRACTIONS, WHITENINGS
from fedjax_norm.errors import UserError
from fedjax_norm.models import MODELS
from fedjax_norm.nodes import BACKENDS
from fedjax_norm.objectives import TASKS
from fedjax_norm.training.feed import DATA_ON
from fedjax_norm.training.schedule import SCHEDULES

ALGORITHMS = ("bsp", "gaia", "fedavg", "dgc")
"""Of ``experiments.decentralized``."""


@dataclasses.dataclass(frozen=True)
class DataFlags:
  """What is learnt, and who holds it; a field a flag."""

  data: str = string(
    "digits",
    "digits, synthetic[:key=value,...], identities[:key=value,...], npy:PATH, npz:PATH, "
    "folder:PATH, csv:PATH, or a prepared TFDS set (mnist, cifar10, cifar100, tiny_imagenet, ...; "
    "needs --data_dir).",
  )
  data_dir: str | None = string(None, "The folder of prepared TFDS sets.")
  region: str | None = choice(
    None,
    REGIONS,
    "A natural client of a csv: index: a continent or subcontinent (M49), a country, or what its "
    "column region says; the continent by default, or the column where there are no countries.",
  )
  min_region_size: int = integer(
    0, "Regions of a csv: index with fewer images are left out, whatever the partition."
  )
  clients: int | None = integer(
    None, "Clients in the federation; 10 by default, or those of a natural partition."
  )
  partition: str = choice("classes", tuple(OPTIONS), "How examples are divided over clients.")
  classes_per_client: int | None = integer(
    None,
    "Classes a client holds, for --partition=classes; as few as make all of them held by default.",
  )
  ratio: float | None = number(None, "R of paper 000, 0 to 0.5 and more, for --partition=ratio.")
  fraction: float | None = number(None, "What is divided by label, for --partition=skew.")
  dominant_share: float | None = number(None, "Of the main class, for --partition=dominant.")
  alpha: float | None = number(None, "Concentration, for --partition=dirichlet or quantity.")
  exponent: float | None = number(None, "Of the power law of sizes, for --partition=quantity.")
  min_size: int | None = integer(None, "Least examples a client, for dirichlet and quantity.")


@dataclasses.dataclass(frozen=True)
class Config(DataFlags):
  """What every run is told; a field a flag."""

  # Not flags: what trains, whether over several processes, and its usual rounds in all and between
  # evaluations.
  algorithm = ""
  several_processes = True
  members: ClassVar[str | None] = None
  usual = (600, 50)

  # What is learnt, how it is shown, and what else differs between clients.
  task: str = choice(
    "classification",
    (*TASKS, "verification"),
    "What the model says of an image: a class; numbers (regression, by the euclidean loss); the "
    "class of every pixel (segmentation, with --model=fcn); or an embedding, by which test images "
    "of one identity are told from those of different ones.",
  )
  image_size: int | None = integer(None, "Resizes images to this many pixels square.")
  train_share: float | None = number(
    None, "Trains on a random share of the training examples alone, chosen by --seed."
  )
  standardise: bool | None = boolean(
    None,
    "Whether channels get mean 0 and deviation 1, by the training set's; they do by default unless "
    "--whiten or --subtract is given.",
  )
  whiten: str = choice(
    "none",
    WHITENINGS,
    "gcn gives every image mean 0 and deviation 1 (global contrast normalization), zca makes the "
    "numbers of the training images uncorrelated, gcn_zca does both.",
  )
  zca_epsilon: float | None = number(
    None, "Added to the variances of --whiten=zca, as a share of their mean; 0.1 by default."
  )
  subtract: str = choice(
    "none",
    SUBTRACTIONS,
    "What is subtracted: the training set's mean of each channel, or its mean image.",
  )
  augment: str = choice(
    "none", AUGMENTATIONS, "Whether training images are cropped, and mirrored, at random."
  )
  feature_shift: str | None = choice(
    None, SHIFT_KINDS, "What differs between clients, for --partition=feature; noise by default."
  )
  feature_scale: float | None = number(None, "The largest feature shift; 1 by default.")
  batch_order: str = choice(
    "shuffled",
    BATCH_ORDERS,
    "How a client goes through an epoch: at random, by label, or as its examples lie in the "
    "source, so that what a batch holds is alike.",
  )
  order_block: int | None = integer(
    None,
    "Examples in a row that --batch_order keeps together, in blocks at random; all by default.",
  )
  drift: str = choice(
    "none",
    DRIFTS,
    "What a client draws from changes over the rounds: its examples, by label or as they lie in "
    "the source, are divided into stretches that take turns.",
  )
  drift_stretches: int | None = integer(None, "How many --drift has; 2 by default.")
  drift_rounds: int | None = integer(
    None, "Rounds that each lasts; as long as makes a run go through them once by default."
  )
  relabelled: float | None = number(
    None, "The share of clients that call every class another one; the test set does not."
  )

  # The model and its norm.
  model: str = choice("tiny", tuple(MODELS), "The model.")
  stem: str = choice(
    "auto",
    ("auto", "cifar", "imagenet"),
    "Of ResNets, alexnet, googlenet and inception_v3; auto by image size.",
  )
  norm: str = choice("bn", norm.NAMES, "The normalization after each convolution.")
  groups: int | None = integer(None, "Groups of gn; the model's own default if not given.")
  group_size: int | None = integer(None, "Channels of a group of gn.")
  mean_only_bn: bool = boolean(False, "Whether wn also centres with mean-only BN.")
  norm_decay: float | None = number(None, "What running statistics keep a step; 0.9 by default.")
  norm_epsilon: float | None = number(None, "Added to variances; 1e-5 by default.")
  brn_r_max: float | None = number(None, "Batch renormalization's final r_max; 3 by default.")
  brn_d_max: float | None = number(None, "Batch renormalization's final d_max; 5 by default.")
  brn_ramp: str | None = string(
    None,
    "Batch renormalization's ramps as three fractions of all rounds: their start, the end of "
    "d_max's, the end of r_max's; Ioffe's 0.04,0.2,0.3 by default.",
  )

  # Training.
  rounds: int | None = integer(
    None,
    "Rounds of communication, 600 by default; of SSGD steps of all workers, of ASGD arrivals, 3000 "
    "by default.",
  )
  batch_size: int = integer(32, "Examples of a client's step.")
  accumulate: int = integer(
    1, "Parts in which a batch goes through the model, one after another; gradients add up."
  )
  lr: float = number(0.05, "The learning rate.")
  lr_schedule: str = choice(
    "constant",
    (*SCHEDULES, "plateau"),
    "The learning rate over rounds; plateau lowers it when the training loss stops falling.",
  )
  lr_warmup_rounds: int = integer(0, "Rounds of linear warm-up.")
  lr_warmup_from: float | None = number(
    None, "The rate that the warm-up rises from; 0 by default, or --lr before --scale_lr_from."
  )
  lr_boundaries: str | None = string(
    None,
    "Rounds at which --lr_schedule=step multiplies the rate; with --epochs, epochs.",
  )
  lr_factor: float | None = number(
    None, "Of step at a boundary, of exponential over the run, of plateau; 0.1 by default."
  )
  lr_patience: int | None = integer(
    None, "Evaluations in a row without a fall before plateau acts; 3 by default."
  )
  lr_power: float | None = number(None, "Of --lr_schedule=polynomial; 1 by default.")
  momentum: float = number(0.9, "Of SGD: the clients' of FedAvg, the master's of SSGD.")
  nesterov: bool = boolean(False, "Whether the momentum looks ahead.")
  weight_decay: float = number(5e-4, "Of the same SGD.")
  clip_norm: float = number(0.0, "The greatest norm of a gradient; 0 for no clipping.")
  batch_stats: str | None = choice(
    None,
    POLICIES,
    "How running statistics are combined: mean (default), moments (keeps the variance between "
    "clients), local (SiloBN), recalibrate.",
  )

  # FixBN's second stage.
  freeze_round: str | None = string(None, "FixBN's T*: a round, half (default) or auto.")
  freeze_lr_factor: float | None = number(None, "Of the rate after the freeze; 0.2 by default.")
  freeze_clip_norm: float | None = number(
    None,
    "Clips gradients after the freeze, 0 for no clipping; 1 or a tighter --clip_norm by default.",
  )
  freeze_affine: bool = boolean(False, "Whether gamma and beta freeze too.")
  freeze_tolerance: float | None = number(
    None, "--freeze_round=auto: the movement, in deviations, that counts as rest; 0.1 by default."
  )

  # The run.
  seed: int = integer(0, "Of everything random.")
  seeds: int = integer(1, "Runs with as many seeds, from --seed on; mean and deviation are told.")
  eval_every: int | None = integer(
    None,
    "Rounds between evaluations, 50 by default, of ASGD 250; with --epochs, epochs, 1 by default.",
  )
  eval_batch_size: int = integer(256, "Test examples a batch.")
  evaluate_clients: int = integer(
    0, "Clients evaluated on their own mix of labels; up to 10 with --fine_tune_steps."
  )
  fine_tune_steps: int | None = integer(
    None,
    "Local steps that each of them fine-tunes the model for on its own data, to be tested beside "
    "the model as it is.",
  )
  fine_tune_lr: float | None = number(None, "The rate of --fine_tune_steps; --lr by default.")
  diagnostics: bool = boolean(
    False,
    "Whether evaluations also measure how the clients' data, models and updates are apart (paper "
    "004): diagnostics.csv and a picture.",
  )
  diagnostics_layer: str | None = string(
    None, "The norm position whose channels --diagnostics tells one by one; the first by default."
  )
  diagnostics_batches: int | None = integer(
    None, "Minibatches of a client that --diagnostics takes moments of; 100 by default."
  )
  workdir: str | None = string(None, "The run's folder; a new one under runs/ by default.")
  resume: bool = boolean(True, "Whether to go on with a run that --workdir holds.")
  progress: bool = boolean(True, "Whether to draw a progress bar.")

  # The machine.
  compute_dtype: str = choice(
    "float32",
    COMPUTE_DTYPES,
    "What activations are computed in; parameters, statistics and sums stay float32. bfloat16 is "
    "for accelerators.",
  )
  compilation_cache: bool = boolean(
    True,
    "Whether compiled programs are kept for the next start, in the user's cache folder or the one "
    "that JAX_COMPILATION_CACHE_DIR names.",
  )
  backend: str = choice("auto", BACKENDS, "How clients are mapped.")
  chunk: int | None = integer(None, "Clients of a device at once; 0 for all.")
  data_on: str = choice(
    "auto",
    DATA_ON,
    "Where training images stay: on the device, or on the host, from where those of the next "
    "rounds' clients are fetched ahead; auto by the memory. Changes no result.",
  )
  host_devices: int | None = integer(
    None, "CPU devices to divide clients over; the cores, up to the cohort, by default."
  )

  # Several processes, one a host.
  coordinator_address: str | None = string(
    None, "HOST:PORT of process 0, for a run of several processes."
  )
  num_processes: int | None = integer(None, "How many processes the run has.")
  process_id: int | None = integer(None, "Which of them this is, from 0.")

  # The simulated network.
  network: str | None = string(
    None, "Tells what a run would take under lan, wan, mobile, or the profile of a CSV file."
  )

  @property
  def model_name(self) -> str:
    """What the model is called in titles."""
    return self.model

  @property
  def one_device(self) -> bool:
    """Whether clients run one after another."""
    return False

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
class TurnFlags(Config):
  """What a run is told besides whose clients take several steps by themselves."""

  cohort: int | None = integer(None, "Clients a round; all by default.")
  local_steps: int | None = integer(None, "Local steps of a client a round; 1 by default.")
  local_epochs: int | None = integer(None, "Passes over a client's data a round, instead.")


@dataclasses.dataclass(frozen=True)
class FedAvgFlags(TurnFlags):
  """What a run of FedAvg is told besides."""

  algorithm = "fedavg"

  client_momentum: str | None = choice(
    None,
    fedavg.MOMENTA,
    "What becomes of the clients' momentum after a round; local by default if all take part, else "
    "reset.",
  )
  prox: float = number(0.0, "mu of FedProx.")
  weighting: str = choice("examples", fedavg.WEIGHTINGS, "Of clients in the average.")
  server_optimizer: str = choice("sgd", fedavg.SERVER_OPTIMIZERS, "Of the averaged change.")
  server_lr: float = number(1.0, "The server's learning rate.")
  server_momentum: float | None = number(None, "Of --server_optimizer=momentum; 0.9 by default.")
  fedbn: bool = boolean(False, "FedBN: norm parameters and statistics stay on the client.")


@dataclasses.dataclass(frozen=True)
class StepwiseFlags(Config):
  """What a run is told besides whose rounds are steps of the joint model."""

  epochs: int | None = integer(
    None, "Passes over all the data, instead of --rounds; --eval_every counts them too then."
  )
  lr_warmup_epochs: int | None = integer(None, "Epochs of warm-up, instead of rounds.")
  scale_lr_from: int | None = integer(
    None, "Linear scaling: --lr is for a joint batch of this size and grows with the real one."
  )


@dataclasses.dataclass(frozen=True)
class SsgdFlags(StepwiseFlags):
  """What a run of SSGD is told besides."""

  algorithm = "ssgd"

  weighting: str = choice(
    "examples", ssgd.WEIGHTINGS, "Of gradients in the average: examples (eq. 8) or uniform (eq. 5)."
  )
  batch_split: str = choice(
    "equal",
    ssgd.BATCH_SPLITS,
    "How the joint batch is divided: --batch_size each, or proportional to the workers' data.",
  )


@dataclasses.dataclass(frozen=True)
class DecentralizedFlags(StepwiseFlags):
  """What a run of paper 004's algorithms is told besides."""

  several_processes = False

  algorithm: str = choice(
    "bsp",
    ALGORITHMS,
    "bsp sends all, gaia what is significant, fedavg averages models now and "
    "then, dgc sends the largest updates.",
  )
  reduction: str | None = choice(
    None,
    ssgd.REDUCTIONS,
    "Of bsp: the sum of the partitions' updates, as gaia and dgc add them up (default), or their "
    "mean, as fedavg has it.",
  )
  threshold: float | None = number(
    None,
    "Gaia's T_0: updates above this share of a weight are sent; 0.1 by default. It falls "
    "with the learning rate.",
  )
  local_steps: int | None = integer(None, "FedAvg's Iter_Local, 20 by default.")
  client_momentum: str | None = choice(
    None, periodic.MOMENTA, "Of fedavg after an average: local (default) or reset."
  )
  sparsity: float | None = number(
    None, "DGC's final s: the share of a tensor that is not sent; 0.999 by default."
  )
  sparsity_warmup_epochs: int | None = integer(
    None, "E_warm: epochs of each of DGC's stages 75, 93.75, 98.4375, 99.6 and 99.9%."
  )
  sparsity_warmup_rounds: int | None = integer(None, "The same in rounds; 0 by default.")
  selection: str | None = choice(
    None, dgc.SELECTIONS, "DGC's threshold: exact (default), or that of a sample."
  )
  momentum_masking: bool | None = boolean(
    None, "Whether what DGC sends loses its momentum; true by default."
  )

  # SkewScout.
  skewscout: str = choice(
    "off",
    ("off", "measure", *SEARCHES),
    "Whether models travel to be tested elsewhere, and theta is chosen by how they do: with hill "
    "climbing, stochastic hill climbing or simulated annealing; measure leaves theta alone.",
  )
  scout_every: int | None = integer(None, "Mini-batches between looks; 500 by default.")
  scout_examples: int | None = integer(None, "Training examples a model is tested on; 256.")
  scout_grid: str | None = string(
    None, "The thetas to choose from, with commas; those of tables 6 to 8 by default."
  )
  scout_start: float | None = number(None, "The theta to begin with; the first of the grid.")
  scout_lambda_al: float | None = number(None, "The weight of the accuracy loss; 50 by default.")
  scout_lambda_c: float | None = number(None, "The weight of communication; 1 by default.")
  scout_sigma_al: float | None = number(None, "The accuracy loss tolerated; 0.05 by default.")
  scout_temperature: float | None = number(
    None, "Of annealing at the first look; 0.5 by default, and 0.9 of it at every further look."
  )


@dataclasses.dataclass(frozen=True)
class OracleFlags(DecentralizedFlags):
  """What the Oracle of paper 004 is told besides."""

  oracle_tolerance: float = number(1.0, "Points of accuracy below BSP's that count as equal.")
  oracle_fractions: str = string(
    "0.2,0.6,1.0", "Degrees of skew: the shares of the data that are divided by label."
  )


@dataclasses.dataclass(frozen=True)
class AsgdFlags(StepwiseFlags):
  """What a run of asynchronous SGD is told besides."""

  algorithm = "asgd"
  several_processes = False
  usual = (3000, 250)

  delay_compensation: str = choice(
    "none",
    asgd.COMPENSATIONS,
    "Of a late gradient g: g + lambda g g (w - w_bak), lambda constant or adaptive.",
  )
  delay_lambda: float | None = number(
    None, "lambda_0; 0.04 for constant and 2 for adaptive by default."
  )
  delay_decay: float | None = number(
    None, "What adaptive's mean square of gradients keeps a step; 0.95 by default."
  )


@dataclasses.dataclass(frozen=True)
class RegionsFlags(DataFlags):
  """What the table of the classes by region is told besides."""

  top: int = integer(5, "Classes a region in the table.")
  seed: int = integer(0, "Of a partition that is drawn.")
  output: str = string("regions", "The folder of the CSV files and pictures.")


@dataclasses.dataclass(frozen=True)
class PaperFlags:
  """What the runner of the papers' tables is told."""

  tables: str = string(
    "all",
    "Which, with commas between: 000.1, 004.fig5, or 004.6 for all that begin so; all by default.",
  )
  scale: str = choice(
    "smoke",
    ("smoke", "small", "full"),
    "smoke: on digits, minutes in all; small: on CIFAR-10, minutes a run; full: the "
    "papers' settings, for a GPU.",
  )
  data_dir: str | None = string(None, "The folder of prepared TFDS sets, for small and full.")
  workdir: str | None = string(None, "Where runs and results go; runs/paper-SCALE by default.")
  seed: int = integer(0, "Of everything random, in every run.")
  progress: bool = boolean(True, "Whether to draw a progress bar of each run.")
  compilation_cache: bool = boolean(True, "Whether compiled programs are kept for the next start.")


def shown(config: type) -> list[dataclasses.Field]:
  """The fields of a config that are flags; what its class calls ``hidden`` keeps its default."""
  hidden = getattr(config, "hidden", ())
  return [field for field in dataclasses.fields(config) if field.name not in hidden]


def define(config: type = Config, values: flags.FlagValues = flags.FLAGS, **defaults: Any) -> None:
  """Defines the flags of a config's fields.

  Args:
    config: the dataclass.
    values: where the flags are defined.
    **defaults: other defaults than the class's, for a binary of its own.
  """
  for field in shown(config):
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
  given = {field.name: values[field.name].value for field in shown(config)}
  for name, value in given.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"--{name} is {value}; it must be a finite number.")
  return config(**given)
