"""Saves what predictions need besides a model's variables, and loads it."""

import dataclasses
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.data.transforms.preprocess import Preprocess, Statistics
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NormSpec
from fedjax_norm.norm.spec import Renorm
from fedjax_norm.options import from_json
from fedjax_norm.training.storage.atomic_files import read_json, write_atomic, write_json

SERVING = "serving.json"
STATISTICS = "serving.npz"
_FORMAT = 1


class Serving(NamedTuple):
  """What predictions need besides a model's variables.

  Attributes:
    task: what the test measured (see ``Task.kind``), such as ``classification``.
    names: name of each output: of the classes, the numbers of a regression or the pixels' classes.
    image_shape: height, width and channels of an image.
    image_dtype: dtype of the stored training images.
    image_size: height and width to which the training images were resized; None if they were not.
    value_range: smallest and largest stored value in a sample of the training images.
    model: key of ``models.MODELS``.
    stem: the model's first layers (see ``models.create``).
    members: models of an ensemble, as in ``--members``; None for a single model.
    norm: the model's norm; after a freeze of its statistics (FixBN) a model predicts in the same
      way.
    preprocess: options of the steps from stored images to the model's inputs.
    target_mean: mean of each number of a regression over the training examples; else empty.
    target_std: standard deviation of each number of a regression; else empty.
    statistics: what the steps need to know of the training images.
  """

  task: str
  names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  image_dtype: str
  image_size: int | None
  value_range: tuple[float, float]
  model: str
  stem: str
  members: str | None
  norm: NormSpec
  preprocess: Preprocess
  target_mean: tuple[float, ...]
  target_std: tuple[float, ...]
  statistics: Statistics


def write_serving(path: Path, serving: Serving) -> None:
  """Writes ``serving.json`` and ``serving.npz`` (the statistics) to the run's folder."""
  buffer = io.BytesIO()
  np.savez(buffer, **serving.statistics)  # type: ignore[arg-type]
  write_atomic(path / STATISTICS, buffer.getvalue())
  values = serving._asdict() | {
    "norm": dataclasses.asdict(serving.norm),
    "preprocess": dataclasses.asdict(serving.preprocess),
  }
  del values["statistics"]
  write_json(path / SERVING, {"format": _FORMAT, **values})


def read_serving(path: Path) -> Serving:
  """Returns what :func:`write_serving` wrote to the run's folder.

  Raises:
    UserError: the folder has no such files, or they are damaged or of another version.
  """
  file = path / SERVING
  if not file.is_file():
    raise UserError(
      f"the run in {path} has no {SERVING}, which predictions need, because it has not ended or is "
      "of an older version of fedjax_norm; run it to its end, or again in a new --workdir."
    )
  values = from_json(read_json(file))
  if (number := values.pop("format", None)) != _FORMAT:
    raise UserError(
      f"{file} has the format {number!r} of another version of fedjax_norm; predict with that "
      "version."
    )
  try:
    statistics = dict(np.load(io.BytesIO((path / STATISTICS).read_bytes())))
    values |= {"norm": _norm(values["norm"]), "preprocess": Preprocess(**values["preprocess"])}
    return Serving(**values, statistics=statistics)
  except PermissionError:
    raise
  except Exception as error:  # NumPy and zipfile raise many types on damaged bytes
    raise UserError(
      f"{file} or {STATISTICS} is damaged; restore both files, or run in a new --workdir."
    ) from error


def _norm(values: dict[str, Any]) -> NormSpec:
  values = from_json(values)
  renorm = values["renorm"]
  return NormSpec(**{**values, "renorm": None if renorm is None else Renorm(*renorm)})
