"""Loads a data source by its name."""

from pathlib import Path

from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources import (
  cityscapes,
  csv_index,
  digits,
  folders,
  identities,
  image_files,
  masks,
  npy,
  npz,
  synthetic,
  tfds,
)
from fedjax_norm.errors import UserError
from fedjax_norm.invocation import command
from fedjax_norm.objectives import OBJECTIVES

ARCHIVED = ("cifar10", "mnist", "tiny_imagenet")
"""The data sets that can be prepared from their archives (see ``data/archives/registry.py``)."""

BUILT_IN = (
  "digits",
  "synthetic[:key=value,...]",
  "identities[:key=value,...]",
  "npy:PATH",
  "npz:PATH",
  "folder:PATH",
  "csv:PATH",
  "masks:PATH",
)
"""The names of the sources that need no prepared TFDS data set."""

TARGETS = {
  "regression": ("digits", "synthetic", "npy", "npz", "csv"),
  "segmentation": ("digits", "synthetic", "npy", "npz", "masks"),
}
"""Objective -> the sources (the names before the colon) that can have targets for it."""


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
  decode: bool = True,
) -> Source:
  """Loads a data source, with all training images or only those that this process needs.

  Args:
    name: `digits`; `synthetic` with ``synthetic.Options``, as in `synthetic:classes=4,noise=0.1`;
      `identities` with ``identities.Options``; `npy:PATH`; `npz:PATH`; `folder:PATH`; `csv:PATH`;
      `masks:PATH`; or an image classification set that TFDS prepared in `data_dir`, such as
      `cifar10`.
    data_dir: folder of the data sets that TFDS prepared.
    seed: seed of `synthetic`, `identities` and the split of a `folder`, a `csv` index or `masks`;
      other sources ignore it.
    image_size: height and width in pixels to resize images to, whatever their aspect ratio; None
      keeps the size. `npy` does not resize.
    select_local: choice of the training examples whose images are read; None reads all. The other
      images of the array are zero and use no memory, or remain in their file (`npy`). The images
      that are read do not depend on the choice; labels, natural clients and test set are complete.
    region: what a natural client of a `csv` index is (see ``csv_index.scan``).
    min_region_size: number of images below which a region of a `csv` index is left out.
    open_set: whether the test classes of a `folder`, a `csv` index, `npz` or `npy` may differ from
      the training classes, as in verification; the test classes of `identities` always do.
    objective: the kind of targets, one of ``objectives.OBJECTIVES``; regression and segmentation
      have targets in addition to the labels, for the training examples of all processes.
    decode: whether image files and the images of TFDS are decoded into arrays; if not, the images
      of the source are ``encoded_images.EncodedImages``, which are decoded when they are read.

  Raises:
    UserError: the source is unknown, cannot be read or has no targets for the objective, or
      `select_local` selects no example.
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
      f"{name!r} has no targets for {objective}; choose one of {', '.join(TARGETS[objective])}."
    )
  if kind == "masks" and objective != "segmentation":
    raise UserError(f"the masks of {name!r} are for segmentation; set --task=segmentation.")
  listing = _listing(name, seed, region, min_region_size)
  if listing and kind == "masks":
    return masks.load(listing, argument, image_size, select_local, decode)
  if listing:
    return image_files.load(
      listing, argument, image_size, select_local, open_set, objective, decode
    )
  if kind == "npy" and argument:
    if image_size is not None:
      raise UserError(
        "The images of npy: remain in their file and cannot be resized; save them in the size you"
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
  return _prepared(name, data_dir, image_size, select_local, decode)


def load_labels(
  name: str,
  data_dir: str | None = None,
  *,
  seed: int = 0,
  region: str | None = None,
  min_region_size: int = 0,
) -> image_files.Labels:
  """Loads the labels and natural clients of the training examples, without decoding image files.

  The test examples are not checked. Arguments and errors are those of :func:`load`.
  """
  kind, _, argument = name.partition(":")
  listing = _listing(name, seed, region, min_region_size)
  if listing and kind == "masks":  # the labels are those of masks in their full size
    source = masks.load(listing, argument, 1, None, decode=False)
  elif listing:
    return image_files.labels(listing, argument, open_set=True)
  else:
    source = load(name, data_dir, seed=seed, open_set=True)
  train, notes = source.train, source.notes
  return image_files.Labels(
    train.labels, train.clients, source.class_names, source.client_names, notes
  )


def _listing(
  name: str, seed: int, region: str | None, min_region_size: int
) -> image_files.Listing | None:
  """Returns the files of a source that consists of image files; None for other sources."""
  kind, _, argument = name.partition(":")
  if kind == "csv" and argument:
    return csv_index.scan(argument, seed, region, min_region_size)
  if region is not None or min_region_size:
    raise UserError(
      f"Only --data=csv:PATH has regions, unlike {name!r}; drop --region and --min_region_size."
    )
  if kind == "masks" and argument:
    return (
      cityscapes.scan(argument) if cityscapes.is_layout(argument) else masks.scan(argument, seed)
    )
  return folders.scan(argument, seed) if kind == "folder" and argument else None


def _prepared(
  name: str,
  data_dir: str | None,
  image_size: int | None,
  select_local: SelectLocal | None,
  decode: bool,
) -> Source:
  known = f"the sources are {', '.join(BUILT_IN)}"
  if data_dir is None:
    is_folder = name and Path(name).expanduser().is_dir()
    hint = (
      f"; if this folder holds folders of images, give --data=folder:{name}" if is_folder else ""
    )
    raise UserError(
      f"--data={name} is no built-in source, so it needs --data_dir=DIR, a folder in which TFDS "
      f"prepared it{hint}; {known}."
    )
  data_dir = str(Path(data_dir).expanduser())
  available = tfds.prepared(data_dir)
  if name not in available:
    how = ""
    if name in ARCHIVED:
      how = f" (prepare it with {command('fetch')} --dataset={name} --data_dir={data_dir})"
    raise UserError(
      f"There is no data source {name!r}{how}; {known}, and the data sets prepared in {data_dir}:"
      f" {', '.join(available) or 'none'}."
    )
  return tfds.load(name, data_dir, image_size, select_local, decode)


def file_paths(
  name: str, *, seed: int = 0, region: str | None = None, min_region_size: int = 0
) -> tuple[list[str], list[str], list[str]]:
  """Returns the files of the training and of the test images, in their order, and the masks.

  They are empty for data of other kinds than image files. Arguments and errors are those of
  :func:`load`.
  """
  listing = _listing(name, seed, region, min_region_size)
  train, test = (listing.train, listing.test) if listing else ([], [])
  found = [file.mask for file in (*train, *test) if file.mask is not None]
  return [file.path for file in train], [file.path for file in test], found
