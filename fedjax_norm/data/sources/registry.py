"""One entry to every data source, by name."""

import dataclasses

from fedjax_norm.data.examples import Source, sample
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources import (
  csv_index,
  digits,
  folders,
  identities,
  image_files,
  npy,
  npz,
  synthetic,
  tfds,
)
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import OBJECTIVES, trained_by
from fedjax_norm.options import Options, option

BUILT_IN = (
  "digits",
  "synthetic[:key=value,...]",
  "identities[:key=value,...]",
  "npy:PATH",
  "npz:PATH",
  "folder:PATH",
  "csv:PATH",
)
"""How the sources are written that need no prepared TFDS set."""


TARGETS = {
  "regression": ("digits", "synthetic", "npy", "npz", "csv"),
  "segmentation": ("digits", "synthetic", "npy", "npz"),
}
"""The sources that can have targets for an objective, by what they are written with."""


@dataclasses.dataclass(frozen=True)
class DataConfig(Options):
  """Which data is read."""

  group = "data"

  data: str = option(
    "digits",
    f"{', '.join(BUILT_IN)}, or a prepared TFDS set (mnist, cifar10, cifar100, tiny_imagenet, ...; "
    "needs --data_dir).",
  )
  data_dir: str | None = option(None, "The folder of prepared TFDS sets.")
  region: str | None = option(
    None,
    "What makes a natural client of a csv: index: a continent or subcontinent (M49), a country, or "
    "its column region, client, user or site; by default the column, or the continent if there is "
    "no such column.",
    choices=csv_index.REGIONS,
  )
  min_region_size: int = option(
    0, "Regions of a csv: index with fewer images are left out, whatever the partition.", least=0
  )
  image_size: int | None = option(
    None, "Resizes images to this many pixels in height and width.", least=1
  )
  train_share: float | None = option(
    None,
    "Trains on a random share of the training examples only, which --seed chooses.",
    above=0,
    most=1,
  )

  def check(self) -> None:
    """Refuses a folder that the data does not need."""
    kinds = {name.partition("[")[0].partition(":")[0] for name in BUILT_IN}
    if self.data_dir is not None and str(self.data).partition(":")[0] in kinds:
      raise UserError(
        "--data_dir does nothing here: it needs a prepared TFDS set as --data; drop it or add that."
      )


def from_config(
  config: DataConfig,
  task: str = "classification",
  seed: int = 0,
  select_local: SelectLocal | None = None,
) -> Source:
  """Loads the data of a run.

  Args:
    config: the options.
    task: of ``objectives.TASKS``, or ``'verification'``, whose test classes may be others than the
      training ones.
    seed: of the training examples that ``train_share`` keeps.
    select_local: as of :func:`load`.

  Raises:
    UserError: as of :func:`load`, or a share of the training examples for one of several processes.
  """
  if config.train_share is not None and select_local is not None:
    raise UserError("--train_share is for one process; drop it or --num_processes.")
  source = load(
    config.data,
    config.data_dir,
    image_size=config.image_size,
    select_local=select_local,
    region=config.region,
    min_region_size=config.min_region_size,
    open_set=task == "verification",
    objective=trained_by(task),
  )
  if config.train_share is None:
    return source
  return source._replace(train=sample(source.train, config.train_share, seed))


def load(
  name: str,
  data_dir: str | None = None,
  *,
  seed: int = 0,
  image_size: int | None = None,
  select_local: SelectLocal | None = None,
  region: str | None = None,
  min_region_size: int = 0,
  open_set: bool = False,
  objective: str = "classification",
) -> Source:
  """Loads a data source, or of its training images those that one of several processes needs.

  Args:
    name: `digits`; `synthetic` with options as in `synthetic.Options`, as in
      `synthetic:classes=4,noise=0.1`; `identities` with those of `identities.Options`; `npy:PATH`;
      `npz:PATH`; `folder:PATH`; `csv:PATH`; or a TFDS image classification set that `data_dir`
      holds prepared, such as `cifar10`.
    data_dir: where TFDS has prepared its sets; only those need it.
    seed: the chance in `synthetic`, in `identities` and in the split of a `folder` or a `csv`
      index; the others have none.
    image_size: the side in pixels to resize the images to, whatever their aspect ratio; None keeps
      their size, and images that stay on the disk (`npy`) keep theirs always.
    select_local: chooses the training examples whose images are this process's own; None is all of them.
      The arrays have their whole length in any case, and own rows are the same bits. The images
      of other rows are zero and take no memory, or stay unread in their file (`npy`). Labels,
      natural clients and the test set are whole.
    region: what a natural client of a `csv` index is (see ``csv_index.scan``).
    min_region_size: the least images of a region of a `csv` index.
    open_set: whether the test classes of a `folder`, a `csv` index, `npz` or `npy` may be others
      than the training ones, as identities that are to be verified; those of `identities` always
      are.
    objective: of ``objectives.OBJECTIVES``; regression and segmentation have targets besides the
      labels, of the training examples of all processes.

  Raises:
    UserError: there is no such source, or it cannot be read or has no targets for the objective, or
      `select_local` chooses no example; the sentence says why.
  """
  if seed < 0:
    raise UserError(f"The data seed must be at least 0, not {seed}.")
  if image_size is not None and image_size < 1:
    raise UserError(f"The image size must be at least 1 pixel, not {image_size}.")
  kind, _, argument = name.partition(":")
  if objective not in OBJECTIVES:
    raise UserError(f"unknown objective {objective!r}; choose one of {', '.join(OBJECTIVES)}.")
  if kind not in TARGETS.get(objective, (kind,)):
    raise UserError(
      f"{name!r} has no targets for {objective}; take one of {', '.join(TARGETS[objective])}."
    )
  listing = _listing(name, seed, region, min_region_size)
  if listing:
    return image_files.load(listing, argument, image_size, select_local, open_set, objective)
  if kind == "npy" and argument:
    if image_size is not None:
      raise UserError(
        "The images of npy: stay in their file, so they are not resized; write them in the size you"
        " want, or use npz:."
      )
    return npy.load(argument, select_local, open_set, objective)
  if name == "digits":
    return digits.load(image_size, select_local, objective)
  if kind == "synthetic":
    return synthetic.load(synthetic.parse(argument), seed, image_size, select_local, objective)
  if kind == "identities":
    return identities.load(identities.parse(argument), seed, image_size, select_local)
  if kind == "npz" and argument:
    return npz.load(argument, image_size, select_local, open_set, objective)
  return _prepared(name, data_dir, image_size, select_local)


def load_labels(
  name: str,
  data_dir: str | None = None,
  *,
  seed: int = 0,
  region: str | None = None,
  min_region_size: int = 0,
) -> image_files.Labels:
  """The labels and natural clients of the training examples; opens no image file of a data set.

  What the test examples are of does not matter.

  Args:
    name: as of :func:`load`, as the others are.
    data_dir: where TFDS has prepared its sets.
    seed: the chance in the split.
    region: what a natural client of a `csv` index is.
    min_region_size: the least images of a region of a `csv` index.

  Raises:
    UserError: as of :func:`load`.
  """
  listing = _listing(name, seed, region, min_region_size)
  if listing:
    return image_files.labels(listing, name.partition(":")[2], open_set=True)
  source = load(name, data_dir, seed=seed, open_set=True)
  train, notes = source.train, source.notes
  return image_files.Labels(
    train.labels, train.clients, source.class_names, source.client_names, notes
  )


def _listing(
  name: str, seed: int, region: str | None, min_region_size: int
) -> image_files.Listing | None:
  """The files of a source that consists of image files; None for other sources."""
  kind, _, argument = name.partition(":")
  if kind == "csv" and argument:
    return csv_index.scan(argument, seed, region, min_region_size)
  if region is not None or min_region_size:
    raise UserError(f"Only a csv: index has regions, and {name!r} is none; leave the region out.")
  return folders.scan(argument, seed) if kind == "folder" and argument else None


def _prepared(
  name: str, data_dir: str | None, image_size: int | None, select_local: SelectLocal | None
) -> Source:
  known = f"the sources are {', '.join(BUILT_IN)}"
  if data_dir is None:
    raise UserError(
      f"There is no data source {name!r} without a folder of TFDS sets; {known}, and with data_dir"
      " the sets prepared there."
    )
  available = tfds.prepared(data_dir)
  if name not in available:
    how = ""
    if name == "tiny_imagenet":
      how = " (prepare it with python -m fedjax_norm.data.tiny_imagenet)"
    raise UserError(
      f"There is no data source {name!r}{how}; {known}, and the sets prepared in {data_dir}:"
      f" {', '.join(available) or 'none'}."
    )
  return tfds.load(name, data_dir, image_size, select_local)
