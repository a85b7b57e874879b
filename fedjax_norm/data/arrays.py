"""A data source made of named NumPy arrays, wherever they come from."""

from collections.abc import Collection, Mapping

import numpy as np

from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.errors import UserError

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
"""`x_train`, `x_test`: [N, H, W, C] or [N, H, W], uint8 or floating; `y_train`, `y_test`: [N]
integers from 0."""

OPTIONAL = ("client_train", "class_names")
"""`client_train`: [N] integers from 0, the natural client of each training example; `class_names`:
[number of classes] strings."""

_CHUNK = 1024


def check_names(path: str, names: Collection[str]) -> None:
  """Checks that all arrays are there, and no others.

  Raises:
    UserError: one is missing or superfluous.
  """
  missing = [name for name in REQUIRED if name not in names]
  if missing:
    raise UserError(f"{path} lacks the array {missing[0]}; it needs {', '.join(REQUIRED)}.")
  unknown = [name for name in names if name not in REQUIRED + OPTIONAL]
  if unknown:
    raise UserError(
      f"{path} holds an array {unknown[0]!r} that has no meaning here; besides"
      f" {', '.join(REQUIRED)} it may hold {' and '.join(OPTIONAL)}."
    )


def make_source(kind: str, path: str, arrays: Mapping[str, np.ndarray]) -> Source:
  """Makes a source; images are not copied unless they are floating and not float32.

  Args:
    kind: the source's name.
    path: where the arrays come from, for errors.
    arrays: those of `REQUIRED`, and any of `OPTIONAL`.

  Raises:
    UserError: an array has the wrong shape, dtype, length or content.
  """
  train = _examples(path, arrays, "train")
  test = _examples(path, arrays, "test")
  if train.images.shape[1:] != test.images.shape[1:]:
    raise UserError(
      f"{path}: images of x_train have shape {train.images.shape[1:]} but those of x_test"
      f" {test.images.shape[1:]}; make them the same."
    )
  if train.images.dtype != test.images.dtype:
    raise UserError(
      f"{path}: x_train is {train.images.dtype} but x_test is {test.images.dtype}; make them the"
      " same."
    )
  num_classes = 1 + int(max(train.labels.max(), test.labels.max()))
  class_names = tuple(str(c) for c in range(num_classes))
  if "class_names" in arrays:
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < num_classes:
      raise UserError(
        f"{path}: class_names must be a list of at least {num_classes} strings, one for each label."
      )
    class_names = tuple(str(name) for name in names)
  client_names = None
  if "client_train" in arrays:
    ids = _ids(path, "client_train", arrays["client_train"], len(train.labels))
    present, clients = np.unique(ids, return_inverse=True)
    train = train._replace(clients=clients.astype(np.int32))
    client_names = tuple(str(k) for k in present)
  return Source(kind, train, test, class_names, client_names)


def _examples(path: str, arrays: Mapping[str, np.ndarray], split: str) -> Examples:
  images = arrays[f"x_{split}"]
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or 0 in images.shape:
    raise UserError(
      f"{path}: x_{split} has shape {arrays[f'x_{split}'].shape}; it must be [N, H, W, C] or"
      " [N, H, W] and not empty."
    )
  if images.dtype.kind == "f":
    images = images.astype(np.float32, copy=False)
    # By chunks: a truth value a pixel of a whole set may not fit in memory.
    chunks = range(0, len(images), _CHUNK)
    if not all(np.isfinite(images[i : i + _CHUNK]).all() for i in chunks):
      raise UserError(f"{path}: x_{split} holds values that are not finite; clean it.")
  elif images.dtype != np.uint8:
    raise UserError(
      f"{path}: x_{split} is {images.dtype}; it must be uint8 (0 to 255) or floating (0 to 1)."
    )
  return Examples(images, _ids(path, f"y_{split}", arrays[f"y_{split}"], len(images)))


def _ids(path: str, name: str, values: np.ndarray, count: int) -> np.ndarray:
  if values.dtype.kind not in "iu":
    raise UserError(f"{path}: {name} is {values.dtype}; it must hold integers.")
  if values.shape != (count,):
    raise UserError(
      f"{path}: {name} has shape {values.shape}; it must be ({count},), one for each image."
    )
  if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
    raise UserError(f"{path}: {name} must lie between 0 and 2^31 - 1; number from 0.")
  return values.astype(np.int32)
