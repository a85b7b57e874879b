"""The flags of every run, as one frozen dataclass.

A flag that is not given is None where its default depends on others, so that one that is given and
would do nothing can be refused.
"""

import dataclasses
import importlib.metadata
import zlib
from pathlib import Path
from typing import Any, ClassVar

from experiments.data_flags import DataFlags
from experiments.fields import boolean, choice, integer, number, string
from fedjax_norm import norm
from fedjax_norm.algorithms.statistics import POLICIES
from fedjax_norm.data.augment import SHIFT_KINDS
from fedjax_norm.data.order import BATCH_ORDERS, DRIFTS
from fedjax_norm.data.preprocess import AUGMENTATIONS, COMPUTE_DTYPES, SUBTRACTIONS, WHITENINGS
from fedjax_norm.models import MODELS
from fedjax_norm.nodes import BACKENDS
from fedjax_norm.objectives import TASKS
from fedjax_norm.training.feed import DATA_ON
from fedjax_norm.training.schedule import SCHEDULES


@dataclasses.dataclass(frozen=True)
class Config(DataFlags):
  """What every run is told; a field a flag."""

  group = "run"

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
  lr: float = number(0.02, "The learning rate.")
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
    "Where --lr_schedule=step multiplies the rate: rounds (with --epochs, epochs), or shares of "
    "the run such as 0.5,0.75.",
  )
  lr_factor: float | None = number(
    None, "Of step at a boundary, of exponential over the run, of plateau; 0.1 by default."
  )
  lr_patience: int | None = integer(
    None, "Evaluations in a row without a fall before plateau acts; 3 by default."
  )
  lr_power: float | None = number(None, "Of --lr_schedule=polynomial; 1 by default.")
  momentum: float = number(
    0.9, "Of SGD: the clients' of FedAvg, the master's of SSGD, of both sides of a cut."
  )
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
  freeze_lr_factor: float | None = number(
    None, "Multiplies the learning rate after the freeze; 1 by default: the rate stays."
  )
  freeze_clip_norm: float | None = number(
    None,
    "The greatest norm of a gradient after the freeze, 0 for no clipping; --clip_norm by default.",
  )
  freeze_affine: bool = boolean(False, "Whether gamma and beta freeze too.")
  freeze_tolerance: float | None = number(
    None, "--freeze_round=auto: the movement, in deviations, that counts as rest; 0.1 by default."
  )

  # The run.
  seed: int = integer(0, "Of everything random.", most=2**32 - 1)
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
  wait_for_workdir: bool = boolean(
    False,
    "Whether to wait until another process that uses --workdir has ended; without it the run ends "
    "with an error.",
  )
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
      "wait_for_workdir",
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
