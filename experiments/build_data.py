"""From the flags to the data: what is read, who holds it, and what happens to an image."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.checks import at_least, given, refuse
from experiments.config import Config
from experiments.data_flags import DataFlags
from fedjax_norm.data import partition, sources
from fedjax_norm.data.examples import Source, sample
from fedjax_norm.data.files import Labels
from fedjax_norm.data.partition import Partition
from fedjax_norm.data.preprocess import Preprocess
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import OBJECTIVES

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


def partition_of(config: DataFlags, owners: np.ndarray | None) -> str:
  """The partition in force: --partition, or else natural where the data names clients.

  Args:
    config: the flags.
    owners: [N] the client of each example, where the data names clients.
  """
  return config.partition or ("classes" if owners is None else "natural")


def make_partition(
  config: DataFlags, labels: np.ndarray, owners: np.ndarray | None, seed: int
) -> Partition:
  """Divides the training examples over the clients.

  Args:
    config: the flags.
    labels: [N] of the examples.
    owners: [N] the client of each example, where the data names clients.
    seed: of what is random.
  """
  at_least(config, 1, "clients")
  name = partition_of(config, owners)
  known = partition.OPTIONS[name]
  others = tuple(flag for flag in _PARTITION_FLAGS if flag not in known)
  refuse(config, others, "another --partition")
  options: dict[str, Any] = {
    flag: getattr(config, flag)
    for flag in _PARTITION_FLAGS
    if flag in known and getattr(config, flag) is not None
  }
  clients = given(config.clients, 10)
  if name == "classes":
    least = -(-len(np.unique(labels)) // max(clients, 1))
    options.setdefault("classes_per_client", least)
  if name == "natural":
    if owners is None:
      raise UserError(
        f"--partition=natural needs data that names the client of each example, which {config.data}"
        " does not; choose another partition."
      )
    options["clients"] = owners
    clients = config.clients or 0
  return partition.make(name, labels, clients, seed, **options)


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
