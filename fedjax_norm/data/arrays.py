"""A data source made of named NumPy arrays, wherever they come from."""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from fedjax_norm.data import own
from fedjax_norm.data.examples import Source
from fedjax_norm.errors import UserError

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
"""`x_train`, `x_test`: [N, H, W, C] or [N, H, W], uint8 or floating; `y_train`, `y_test`: [N]
integers from 0."""

OPTIONAL = ("client_train", "class_names")
"""`client_train`: [N] integers from 0, the natural client of each training example; `class_names`:
[number of classes] strings."""


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


def make_source(
  kind: str,
  path: str,
  arrays: Mapping[str, np.ndarray],
  reader: Callable[[np.ndarray], own.Read],
  mine: own.Mine | None,
) -> Source:
  """Makes a source; images are not copied unless they are floating and not float32.

  Args:
    kind: the source's name.
    path: where the arrays come from, for errors.
    arrays: those of `REQUIRED`, and any of `OPTIONAL`.
    reader: how images [N, H, W, C] are read.
    mine: which training images are read; None reads all. The others may hold anything.

  Raises:
    UserError: an array has the wrong shape, dtype, length or content.
  """
  train, test = (_images(path, arrays, split) for split in ("train", "test"))
  if train.shape[1:] != test.shape[1:]:
    raise UserError(
      f"{path}: images of x_train have shape {train.shape[1:]} but those of x_test"
      f" {test.shape[1:]}; make them the same."
    )
  if train.dtype != test.dtype:
    raise UserError(
      f"{path}: x_train is {train.dtype} but x_test is {test.dtype}; make them the same."
    )
  labels = _ids(path, "y_train", arrays["y_train"], len(train))
  test_labels = _ids(path, "y_test", arrays["y_test"], len(test))
  num_classes = 1 + int(max(labels.max(), test_labels.max()))
  class_names = tuple(str(c) for c in range(num_classes))
  if "class_names" in arrays:
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < num_classes:
      raise UserError(
        f"{path}: class_names must be a list of at least {num_classes} strings, one for each label."
      )
    class_names = tuple(str(name) for name in names)
  clients, client_names = None, None
  if "client_train" in arrays:
    ids = _ids(path, "client_train", arrays["client_train"], len(train))
    present, places = np.unique(ids, return_inverse=True)
    clients = places.astype(np.int32)
    client_names = tuple(str(k) for k in present)

  def checked(name: str, images: np.ndarray) -> own.Read:
    read = reader(images)

    def check_and_read(ids: np.ndarray | None) -> np.ndarray:
      blocks = own.blocks(images, ids) if images.dtype.kind == "f" else ()
      if not all(np.isfinite(block).all() for block in blocks):
        raise UserError(f"{path}: {name} holds values that are not finite; clean it.")
      return read(ids)

    return check_and_read

  return Source(
    kind,
    own.examples(labels, clients, checked("x_train", train), mine),
    own.examples(test_labels, None, checked("x_test", test), None),
    class_names,
    client_names,
  )


def _images(path: str, arrays: Mapping[str, np.ndarray], split: str) -> np.ndarray:
  images = arrays[f"x_{split}"]
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or 0 in images.shape:
    raise UserError(
      f"{path}: x_{split} has shape {arrays[f'x_{split}'].shape}; it must be [N, H, W, C] or"
      " [N, H, W] and not empty."
    )
  if images.dtype.kind == "f":
    return images.astype(np.float32, copy=False)
  if images.dtype != np.uint8:
    raise UserError(
      f"{path}: x_{split} is {images.dtype}; it must be uint8 (0 to 255) or floating (0 to 1)."
    )
  return images


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
