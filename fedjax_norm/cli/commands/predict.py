"""Predicts with a finished run: ``python -m experiments.predict --workdir=RUN --images=FOLDER``.

It prints a CSV table with a row for each image: the predicted class, its probability, and the
probability of every class; of a regression the predicted numbers, of a segmentation the share of
the pixels of each class. For the images of a data source (--data) the table also has what is true,
and a last line on stderr says how many predictions are right. The folder may be read-only.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_norm.cli import app, prediction_table
from fedjax_norm.cli.config import Config, all_but
from fedjax_norm.data import encoded_images, image_decoding
from fedjax_norm.data.examples import Examples, Source, first_classes
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import training_objective
from fedjax_norm.options import option
from fedjax_norm.training.finished_run import FinishedRun, load_run
from fedjax_norm.training.storage.atomic_files import atomic_replacement
from fedjax_norm.training.storage.csv_rows import Row, csv_lines

_DATA_OPTIONS = ("data_dir", "region", "min_region_size", "first_classes")


@dataclasses.dataclass(frozen=True)
class PredictFlags(Config):
  """Options of ``experiments.predict``."""

  group = "prediction"
  algorithm = "predict"
  hidden = all_but("data", *_DATA_OPTIONS, "batch_size", "workdir", "compilation_cache")

  images: str | None = option(
    None,
    "An image file, or a folder of image files (also in its subfolders), to predict for. They are "
    "converted and resized as the run's training images.",
  )
  data: str | None = option(  # type: ignore[assignment]
    None,
    "A data source to predict for, as --data of the training binaries; by default the run's own, "
    "unless --images is given.",
  )
  split: str = option("test", "The part of the data to predict for.", choices=("test", "train"))
  output: str | None = option(None, "Path of a new CSV file; by default the table is printed.")
  best: bool = option(
    False,
    "Predicts with the model of the round with the best validation value, which a run with "
    "--validation_share saves, instead of the final model.",
  )
  batch_size: int = option(256, "Number of images that are predicted together.", least=1)

  def check(self) -> None:
    """Raises UserError for options that would have no effect."""
    for name in (*_DATA_OPTIONS, *(("data", "split") if self.images is not None else ())):
      if self.data is not None and name in _DATA_OPTIONS:
        continue
      if getattr(self, name) != getattr(type(self), name):
        needs = "--data" if name in _DATA_OPTIONS else "no --images"
        raise UserError(f"--{name} does nothing here: it needs {needs}; drop --{name}.")


class Part(NamedTuple):
  """Some of the images to predict for.

  Attributes:
    head: the first column of each image's row.
    images: [N, H, W, C] stored images.
    targets: [N, ...] what is true of them, numbered as the run's outputs; None if unknown.
  """

  head: list[Row]
  images: np.ndarray
  targets: np.ndarray | None


def main(config: PredictFlags) -> None:
  """Writes a row of predictions for each image, and prints how many are right if that is known."""
  if config.workdir is None:
    raise UserError("there is no run; give --workdir, the folder of a finished run.")
  run = load_run(config.workdir, config.best)
  if config.images is not None:
    name, parts = config.images, _files(Path(config.images).expanduser(), run, config.batch_size)
  else:
    source, examples = _load(config, run)
    name, parts = _data(config, run), _slices(run, source, examples, config.batch_size)
  sums: list[tuple[float, int]] = []
  lines = _lines(run, parts, sums, config.batch_size)
  if config.output is None:
    _print(lines)
  else:
    _write(Path(config.output).expanduser(), lines)
    print(f"written: {config.output}")
  if sums:
    total, count = map(sum, zip(*sums, strict=True))
    measure = prediction_table.describe(run, total, int(count))
    print(f"{measure} on the {config.split} images of {name}", file=sys.stderr)


def _lines(
  run: FinishedRun, parts: Iterator[Part], sums: list[tuple[float, int]], batch_size: int
) -> Iterator[bytes]:
  """Yields the table as CSV text, and appends the score of each part to ``sums``."""
  columns: tuple[str, ...] = ()
  for part in parts:
    outputs = run.outputs(part.images, batch_size)
    rows = prediction_table.rows(run, part.head, outputs, part.targets)
    if part.targets is not None:
      sums.append(prediction_table.score(run, outputs, part.targets))
    header, columns = not columns, columns or tuple(rows[0])
    yield csv_lines(rows, columns, header)


def _files(path: Path, run: FinishedRun, batch_size: int) -> Iterator[Part]:
  """Yields the images of a file, or of a folder and its subfolders.

  Raises:
    UserError: there is no image, one cannot be read, or one has another size than the run's.
  """
  if not path.exists():
    raise UserError(f"there is no file or folder {path}; correct --images.")
  files = [path]
  if path.is_dir():
    files = [file for file in sorted(path.rglob("*")) if _visible(file.relative_to(path))]
    files = [file for file in files if file.is_file() and image_decoding.is_image(file)]
  if not files:
    raise UserError(f"the folder {path} holds no images; give another folder as --images.")
  height, width, channels = run.serving.image_shape
  if channels not in (1, 3):
    raise UserError(
      f"image files have 1 or 3 channels, but the run's images have {channels}; give --data."
    )
  size = run.serving.image_size
  for begin in range(0, len(files), batch_size):
    chosen = files[begin : begin + batch_size]
    for file in chosen if size is None else ():
      shape = image_decoding.header(file, str(file))
      if shape[:2] != (height, width):
        raise UserError(
          f"{file} has {shape[0]}x{shape[1]} pixels, but the run trained on {height}x{width}; "
          "resize the image, or train with --image_size, which also resizes here."
        )
    shape = (height, width, channels)
    images = encoded_images.of_files([str(file) for file in chosen], shape, size)[:]
    names = [os.fsencode(file).decode(errors="replace") for file in chosen]
    yield Part([{"image": name} for name in names], images, None)


def _visible(path: Path) -> bool:
  return not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _data(config: PredictFlags, run: FinishedRun) -> str:
  return config.data or str(run.config["data"])


def _load(config: PredictFlags, run: FinishedRun) -> tuple[Source, Examples]:
  """Returns a data source and its examples to predict for.

  Raises:
    UserError: the data cannot be loaded, or its images have another shape than the run's.
  """
  given = vars(config) if config.data is not None else run.config
  source = sources.load(
    given["data"],
    given.get("data_dir"),
    image_size=run.serving.image_size,
    # The test needs no training images; one is read, because a source must not be empty.
    select_local=(lambda labels, _: np.arange(1)) if config.split == "test" else None,
    region=given.get("region"),
    min_region_size=given.get("min_region_size", 0),
    objective=training_objective(run.serving.task),
  )
  if kept := given.get("first_classes"):
    if config.split == "test":  # a copy of the training images, which were not read, would be large
      source = source._replace(train=source.test)
    source = first_classes(source, kept)
  examples: Examples = getattr(source, config.split)
  shape, needed = examples.images.shape[1:], run.serving.image_shape
  if shape[:2] != needed[:2] or shape[2] not in (1, needed[2]):
    sizes = ["x".join(map(str, size)) for size in (shape, needed)]
    raise UserError(
      f"the images of {_data(config, run)} are {sizes[0]}, but the run trained on {sizes[1]}; give "
      "other --data."
    )
  return source, examples


def _slices(
  run: FinishedRun, source: Source, examples: Examples, batch_size: int
) -> Iterator[Part]:
  """Yields the examples in order; gray images become RGB if the run's are."""
  targets = prediction_table.targets_of(run, source, examples)
  channels = run.serving.image_shape[2]
  for begin in range(0, len(targets), batch_size):
    part = slice(begin, begin + batch_size)
    images = np.asarray(examples.images[part])
    if images.shape[3] != channels:
      images = np.repeat(images, channels, axis=3)
    head = [{"example": begin + k} for k in range(len(images))]
    yield Part(head, images, targets[part])


def _print(lines: Iterator[bytes]) -> None:
  """Prints the table; ends quietly if the reader, such as ``head``, has read enough."""
  try:
    for text in lines:
      sys.stdout.write(text.decode())
    sys.stdout.flush()
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(path: Path, lines: Iterator[bytes]) -> None:
  """Writes the table to a new file, which appears when it is complete."""
  if path.exists():
    raise UserError(f"{path} exists already and is not overwritten; pass another --output.")
  with atomic_replacement(path) as temporary:
    try:
      with open(temporary, "wb") as file:
        for text in lines:
          file.write(text)
    except BaseException:  # such as an image that cannot be read, or Ctrl-C
      temporary.unlink(missing_ok=True)
      raise


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(main, PredictFlags, __doc__)
