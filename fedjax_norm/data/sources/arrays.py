"""Checks named NumPy arrays and makes a data source of them."""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from fedjax_norm.data import process_local
from fedjax_norm.data.examples import Source
from fedjax_norm.data.names import normalize
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import IGNORED

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
"""`x_train`, `x_test`: [N, H, W, C] or [N, H, W], uint8 or floating; `y_train`, `y_test`: [N]
integers from 0."""

TARGETS = ("target_train", "target_test", "target_names")
"""What models predict instead of labels. `target_train`, `target_test`: for regression [N] or
[N, D] numbers; for segmentation [N, H, W] integers, the classes of the pixels from 0, with 255 for
pixels that do not count. `target_names`: strings, one per number or class."""

OPTIONAL = ("client_train", "client_test", "client_names", "class_names", "test_names", *TARGETS)
"""`client_train`, `client_test`: [N] integers from 0, the natural client of each example;
`client_names`, `class_names`: [number of clients, of classes] strings; `test_names`: strings, the
names of the classes of `y_test` if these are numbered apart from those of `y_train`; and
``TARGETS``."""

_MANY_CLASSES = 1000


def check_names(path: str, names: Collection[str]) -> None:
  """Checks the names of the arrays.

  Raises:
    UserError: an array is missing or unknown.
  """
  missing = [name for name in REQUIRED if name not in names]
  if missing:
    raise UserError(f"{path} lacks the array {missing[0]}; it needs {', '.join(REQUIRED)}.")
  unknown = [name for name in names if name not in REQUIRED + OPTIONAL]
  if unknown:
    raise UserError(
      f"{path} has an unknown array {unknown[0]!r}; remove this array (known:"
      f" {', '.join(REQUIRED)}, and optionally {', '.join(OPTIONAL)})."
    )


def make_source(
  kind: str,
  path: str,
  arrays: Mapping[str, np.ndarray],
  reader: Callable[[np.ndarray], process_local.ReadImages],
  select_local: SelectLocal | None,
  open_set: bool = False,
  objective: str = "classification",
  resize: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Source:
  """Returns a source; images are copied only if they are floating but not float32.

  Args:
    kind: the name of the source.
    path: name of the arrays' file or folder in errors.
    arrays: the arrays in `REQUIRED`, and optionally those in `OPTIONAL`.
    reader: function from images [N, H, W, C] to the function that reads them.
    select_local: choice of the training images to read and check; None reads all.
    open_set: whether the test classes may differ from the training classes; test labels are then
      numbered separately.
    objective: the kind of targets, one of ``objectives.OBJECTIVES``.
    resize: function that resizes pixel classes [N, H, W] to the size of the images that are read.

  Raises:
    UserError: an array has the wrong shape, dtype, length or content.
  """
  train, test = (_images(path, arrays, split) for split in ("train", "test"))
  if train.shape[1:] != test.shape[1:]:
    raise UserError(
      f"{path}: an image of x_train has shape {train.shape[1:]} but one of x_test"
      f" {test.shape[1:]}; make the shapes the same."
    )
  if train.dtype != test.dtype:
    raise UserError(
      f"{path}: x_train is {train.dtype} but x_test is {test.dtype}; make the dtypes the same."
    )
  labels = _ids(path, "y_train", arrays["y_train"], len(train))
  test_labels = _ids(path, "y_test", arrays["y_test"], len(test))
  has_names, numbered_apart = "class_names" in arrays, "test_names" in arrays
  if numbered_apart and not open_set:
    raise UserError(
      f"{path} has an array test_names, so its test classes differ from its training classes;"
      " choose the task verification, or remove the array."
    )
  occurring = np.union1d(
    labels, labels if open_set and (numbered_apart or not has_names) else test_labels
  )
  num_classes = 1 + int(occurring[-1])  # the model has one output per label
  if not has_names and num_classes > max(_MANY_CLASSES, 2 * len(occurring)):
    raise UserError(
      f"{path}: the labels go up to {num_classes - 1:,} but only {len(occurring):,} classes occur;"
      " renumber the labels with numpy.unique(labels, return_inverse=True), or name all classes in"
      " an array class_names."
    )
  class_names = _names(path, arrays, "class_names", num_classes, "label")
  unknown = np.setdiff1d(test_labels, labels)
  if unknown.size and objective == "classification" and not (has_names or open_set):
    raise UserError(
      f"{path}: class {unknown[0]} has test images but no training image; add one, remove its test"
      " images, name all classes in an array class_names, or choose the task verification."
    )
  test_names = None
  if numbered_apart:
    test_names = _names(path, arrays, "test_names", 1 + int(test_labels.max()), "test label")
  elif open_set:
    test_classes, numbers = np.unique(test_labels, return_inverse=True)
    test_labels = numbers.astype(np.int32)
    test_names = tuple(class_names[c] if has_names else str(c) for c in test_classes)
  targets, test_targets, target_names = None, None, None
  if objective in _READ_TARGETS:
    if missing := [name for name in TARGETS[:2] if name not in arrays]:
      raise UserError(f"{path} lacks the array {missing[0]}, which {objective} needs; add it.")
    targets, test_targets, target_names = _READ_TARGETS[objective](path, arrays)
    if objective == "segmentation":
      targets, test_targets = resize(targets), resize(test_targets)
  clients, test_clients, client_names = _clients(path, arrays)

  def checked(name: str, images: np.ndarray) -> process_local.ReadImages:
    read = reader(images)

    def check_and_read(ids: np.ndarray | None) -> np.ndarray:
      if images.dtype.kind == "f":
        for block in process_local.image_blocks(images, ids):
          _check_finite(path, name, block)
      return read(ids)

    return check_and_read

  return Source(
    kind,
    process_local.read_examples(labels, clients, checked("x_train", train), select_local, targets),
    process_local.read_examples(
      test_labels, test_clients, checked("x_test", test), None, test_targets
    ),
    class_names,
    client_names,
    test_names=test_names,
    target_names=target_names,
  )


def _clients(
  path: str, arrays: Mapping[str, np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...] | None]:
  """Returns the clients of the training and of the test examples, and their names, if given.

  Test examples of clients without training examples have the client -1.
  """
  given = {
    split: _ids(path, f"client_{split}", arrays[f"client_{split}"], len(arrays[f"x_{split}"]))
    for split in ("train", "test")
    if f"client_{split}" in arrays
  }
  if "train" not in given:
    if other := [name for name in ("client_test", "client_names") if name in arrays]:
      raise UserError(f"{path} has {other[0]} but no client_train; add client_train.")
    return None, None, None
  present, clients = np.unique(given["train"], return_inverse=True)
  test_clients = None
  if "test" in given:
    known = np.isin(given["test"], present)
    test_clients = np.where(known, np.searchsorted(present, given["test"]), -1).astype(np.int32)
  names = tuple(map(str, present))  # unlike names from 0, these are few if the numbers are sparse
  if "client_names" in arrays:
    named = _names(path, arrays, "client_names", 1 + int(present[-1]), "client")
    names = tuple(named[k] for k in present)
  return clients.astype(np.int32), test_clients, names


_Targets = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def _number_targets(path: str, arrays: Mapping[str, np.ndarray]) -> _Targets:
  """Returns training and test targets [N, D] float32, and the names of the D numbers."""

  def read(split: str) -> np.ndarray:
    name = f"target_{split}"
    values, count = arrays[name], len(arrays[f"x_{split}"])
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2) or len(values) != count:
      raise UserError(
        f"{path}: {name} is {values.dtype} of shape {values.shape}; regression needs numbers"
        f" [{count}] or [{count}, D], one row per image."
      )
    _check_finite(path, name, values)
    if (greatest := np.abs(values.astype(np.float64)).max()) > np.finfo(np.float32).max:
      raise UserError(
        f"{path}: {name} has a number of size {greatest:g}, which float32 cannot represent; scale"
        " the numbers down."
      )
    return values.reshape(count, -1).astype(np.float32)

  train, test = read("train"), read("test")
  if train.shape[1] != test.shape[1] or not train.shape[1]:
    raise UserError(
      f"{path}: target_train has {train.shape[1]} numbers per image and target_test"
      f" {test.shape[1]}; give both the same number, at least one."
    )
  names = _names(path, arrays, "target_names", train.shape[1], "number")
  return train, test, names[: train.shape[1]]


def _pixel_targets(path: str, arrays: Mapping[str, np.ndarray]) -> _Targets:
  """Returns training and test targets [N, H, W] uint8, and the names of the pixel classes."""

  def read(split: str) -> np.ndarray:
    name, shape = f"target_{split}", arrays[f"x_{split}"].shape[:3]
    classes = arrays[name]
    if classes.dtype.kind not in "iu" or classes.shape != shape:
      raise UserError(
        f"{path}: {name} is {classes.dtype} of shape {classes.shape}; segmentation needs integers"
        f" {shape}, one for each pixel."
      )
    if classes.min() < 0 or classes.max() > IGNORED:
      raise UserError(
        f"{path}: {name} must lie between 0 and {IGNORED - 1}, or be {IGNORED} for pixels that do"
        " not count; number the classes from 0."
      )
    return classes.astype(np.uint8, copy=False)

  train, test = read("train"), read("test")
  known = [part[part != IGNORED] for part in (train, test)]
  if not all(map(len, known)):
    raise UserError(f"{path}: all pixels of a target array are {IGNORED}; give some a class.")
  count = 1 + int(max(part.max() for part in known))
  return train, test, _names(path, arrays, "target_names", count, "class")


_READ_TARGETS: Mapping[str, Callable[[str, Mapping[str, np.ndarray]], _Targets]] = {
  "regression": _number_targets,
  "segmentation": _pixel_targets,
}


def _names(
  path: str, arrays: Mapping[str, np.ndarray], name: str, count: int, what: str
) -> tuple[str, ...]:
  """Returns the strings of the array `name`, at least `count`; if it is missing, numbers from 0."""
  if name not in arrays:
    return tuple(map(str, range(count)))
  names = arrays[name]
  if names.ndim != 1 or names.dtype.kind != "U" or len(names) < count:
    raise UserError(
      f"{path}: {name} must be a list of at least {count} strings, one for each {what}."
    )
  return tuple(normalize(str(name)) for name in names)


def _images(path: str, arrays: Mapping[str, np.ndarray], split: str) -> np.ndarray:
  images = arrays[f"x_{split}"]
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or 0 in images.shape:
    raise UserError(
      f"{path}: x_{split} has shape {arrays[f'x_{split}'].shape}; it must be [N, H, W, C] or"
      " [N, H, W] and not empty."
    )
  _, height, width, channels = images.shape
  if height in (1, 3, 4) and width == channels > 4:
    raise UserError(
      f"{path}: x_{split} has shape {images.shape}, which looks like [N, C, H, W]; put the channels"
      " last with numpy.moveaxis(images, 1, -1)."
    )
  if images.dtype.kind == "f":
    return images.astype(np.float32, copy=False)
  if images.dtype != np.uint8:
    raise UserError(
      f"{path}: x_{split} is {images.dtype}; it must be uint8 (0 to 255) or floating (0 to 1)."
    )
  return images


def _check_finite(path: str, name: str, values: np.ndarray) -> None:
  if not np.isfinite(values).all():
    raise UserError(f"{path}: {name} has values that are not finite; replace these values.")


def _ids(path: str, name: str, values: np.ndarray, count: int) -> np.ndarray:
  if values.dtype.kind not in "iu":
    raise UserError(f"{path}: {name} is {values.dtype}; it must consist of integers.")
  if values.shape != (count,):
    raise UserError(
      f"{path}: {name} has shape {values.shape}; it must be ({count},), one for each image."
    )
  if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
    raise UserError(f"{path}: {name} must lie between 0 and 2^31 - 1; number from 0.")
  return values.astype(np.int32)
