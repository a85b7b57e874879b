"""Data from a NumPy archive."""

import os
import zipfile

import numpy as np

from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.errors import UserError

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("client_train", "class_names")


def load(path: str) -> Source:
  """Loads an .npz archive.

  It holds `x_train`, `x_test`: [N, H, W, C] or [N, H, W], uint8 or floating; `y_train`, `y_test`:
  [N] integers from 0; and it may hold `client_train`: [N] integers from 0, the natural client of
  each training example, and `class_names`: [number of classes] strings.

  Args:
    path: the file.

  Raises:
    UserError: the file is missing or is no such archive, or an array is missing, superfluous, or
      of the wrong shape, dtype, length or content.
  """
  arrays = _read(path)
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
  return Source("npz", train, test, class_names, client_names)


def _read(path: str) -> dict[str, np.ndarray]:
  if not os.path.isfile(path):
    raise UserError(f"There is no file {path!r}; give the path of an .npz archive.")
  try:
    # Opened here, for np.load leaves a file open that turns out to be no archive.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
      names = archive.files
      missing = [name for name in _REQUIRED if name not in names]
      if missing:
        raise UserError(f"{path} lacks the array {missing[0]}; it needs {', '.join(_REQUIRED)}.")
      unknown = [name for name in names if name not in _REQUIRED + _OPTIONAL]
      if unknown:
        raise UserError(
          f"{path} holds an array {unknown[0]!r} that has no meaning here; besides"
          f" {', '.join(_REQUIRED)} it may hold {' and '.join(_OPTIONAL)}."
        )
      return {name: archive[name] for name in names}
  except UserError:
    raise
  # A plain .npy file comes back as an array, which is no context manager and has no names.
  except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
    raise UserError(
      f"{path} is not an .npz archive of plain arrays; write it with numpy.savez."
    ) from error


def _examples(path: str, arrays: dict[str, np.ndarray], split: str) -> Examples:
  images = arrays[f"x_{split}"]
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or 0 in images.shape:
    raise UserError(
      f"{path}: x_{split} has shape {arrays[f'x_{split}'].shape}; it must be [N, H, W, C] or"
      " [N, H, W] and not empty."
    )
  if images.dtype.kind == "f":
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
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
