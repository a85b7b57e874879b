"""The options that choose the data of a run, and its loading by them."""

import dataclasses
import functools

import numpy as np

from fedjax_norm.data.examples import Source, first_classes, sample
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources import csv_index
from fedjax_norm.data.sources.registry import BUILT_IN, load
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import training_objective
from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class DataConfig(Options):
  """Options that choose the data of a run."""

  group = "data"

  data: str = option(
    "digits",
    f"Data source: {', '.join(BUILT_IN)}, or a data set that TFDS prepared in --data_dir (mnist, "
    "cifar10, cifar100, tiny_imagenet, ...).",
  )
  data_dir: str | None = option(
    None, "Folder of the data sets that TFDS prepared, needed only for --data of that kind."
  )
  region: str | None = option(
    None,
    "What a natural client of --data=csv:PATH is: a continent or subcontinent (M49), a country, or "
    "a value of the column client, user, site or region; by default column if the file has such a "
    "column, otherwise continent.",
    choices=csv_index.REGIONS,
  )
  min_region_size: int = option(
    0,
    "Smallest number of images of a region (--region); smaller regions are left out with every "
    "--partition. 0 keeps all.",
    least=0,
  )
  image_size: int | None = option(
    None,
    "Height and width in pixels to which all images are resized; by default they are not resized.",
    least=1,
  )
  train_share: float | None = option(
    None,
    "Share of the training examples to train on, drawn at random with --seed; by default all.",
    above=0,
    most=1,
  )
  first_classes: int | None = option(
    None,
    "Number of classes to keep, the first by label, for training and test (classification only); "
    "by default all.",
    least=2,
  )

  def check(self) -> None:
    """Raises UserError if ``data_dir`` is given but the data needs none."""
    kinds = {name.partition("[")[0].partition(":")[0] for name in BUILT_IN}
    if self.data_dir is not None and str(self.data).partition(":")[0] in kinds:
      raise UserError(
        "--data_dir does nothing here: it needs a data set that TFDS prepared as --data; drop"
        " --data_dir or change --data."
      )


def from_config(
  config: DataConfig,
  task: str = "classification",
  select_local: SelectLocal | None = None,
  decode: bool = True,
) -> Source:
  """Loads the data of a run, with all training examples (see :func:`share`).

  Args:
    config: the options.
    task: one of ``objectives.TASKS``, or ``'verification'``, whose test classes may differ from the
      training classes.
    select_local: choice of the training images to read, as for :func:`load`.
    decode: whether to decode images now, as for :func:`load`.

  Raises:
    UserError: see :func:`load` and ``examples.first_classes``; or an option that needs all training
      examples and `select_local` are given.
  """
  for name in ("train_share", "first_classes"):
    if getattr(config, name) is not None and select_local is not None:
      raise UserError(f"--{name} is for one process; drop --{name} or --num_processes.")
  if config.first_classes is not None:
    select_local = functools.partial(_of_first_classes, config.first_classes)
  source = load(
    config.data,
    config.data_dir,
    image_size=config.image_size,
    select_local=select_local,
    region=config.region,
    min_region_size=config.min_region_size,
    open_set=task == "verification",
    objective=training_objective(task),
    decode=decode,
  )
  return source if config.first_classes is None else first_classes(source, config.first_classes)


def _of_first_classes(count: int, labels: np.ndarray, clients: np.ndarray | None) -> np.ndarray:
  """Returns the ids of the examples of the first ``count`` classes."""
  return np.flatnonzero(labels < count)


def share(source: Source, config: DataConfig, seed: int) -> Source:
  """Returns the data with the ``train_share`` of its training examples that a seed draws."""
  if config.train_share is None:
    return source
  return source._replace(train=sample(source.train, config.train_share, seed))
