"""Data from a folder of image files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_norm.data import images as images_lib
from fedjax_norm.data import own
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.splits import stratified_split
from fedjax_norm.errors import UserError

_SUFFIXES = frozenset(
  {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_TEST_SHARE = 0.2


class _File(NamedTuple):
  path: str
  label: str
  client: str | None


def load(
  path: str, seed: int, image_size: int | None = None, mine: own.Mine | None = None
) -> Source:
  """Loads the images of a folder as uint8.

  Three layouts are understood: `CLASS/image`; `CLIENT/CLASS/image`, where the clients are a natural
  partition; and `train/` with `test/` or `val/`, each in one of the first two. Without `test/` and
  `val/` a seeded fifth of the images, stratified by class and client, is the test set. Images are
  RGB unless every one is grayscale.

  Args:
    path: the folder.
    seed: the chance in the split.
    image_size: the side to resize every image to; None demands that all have one size.
    mine: which training images are decoded; of the others only the headers are read, which tell
      size and colour. None decodes all.

  Raises:
    UserError: the folder is missing or empty, has another layout, or holds a damaged image or
      images of several sizes.
  """
  root = Path(path)
  if not root.is_dir():
    raise UserError(f"There is no folder {path!r}; give the path of a folder of images.")
  held_out = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
  if held_out is not None and (root / "train").is_dir():
    train, test = _scan(root / "train"), _scan(held_out)
  else:
    train, test = _split(_scan(root), path, seed)
  class_names = tuple(sorted({file.label for file in train}))
  unknown = sorted({file.label for file in test}.difference(class_names))
  if unknown:
    raise UserError(f"{path}: class {unknown[0]!r} has test images but no training image; add one.")
  shapes = [_header(file) for file in (*train, *test)]
  if image_size is None:
    _same_size((*train, *test), shapes)
  channels = max(shape[2] for shape in shapes)
  client_names = None
  if train[0].client is not None:
    client_names = tuple(sorted({file.client for file in train if file.client is not None}))
  return Source(
    "folder",
    _decode(train, class_names, client_names, channels, image_size, mine),
    _decode(test, class_names, None, channels, image_size, None),
    class_names,
    client_names,
  )


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
  """The subfolders and the images of a folder, sorted; hidden ones do not count."""
  children = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
  images = [c for c in children if c.suffix.lower() in _SUFFIXES and c.is_file()]
  return [c for c in children if c.is_dir()], images


def _scan(root: Path) -> list[_File]:
  """Finds the images under a folder of classes or of clients with classes."""
  files = []
  top, loose = _entries(root)
  if loose:
    raise UserError(f"{loose[0]} lies outside any class folder; move it into one.")
  for first in top:
    nested, images = _entries(first)
    files += [_File(str(image), first.name, None) for image in images]
    for second in nested:
      deeper, images = _entries(second)
      if deeper:
        raise UserError(f"{deeper[0]} is nested too deep; use CLASS/image or CLIENT/CLASS/image.")
      files += [_File(str(image), second.name, first.name) for image in images]
  if not files:
    raise UserError(f"{root} holds no images; fill it as CLASS/image or CLIENT/CLASS/image.")
  if len({file.client is None for file in files}) > 1:
    raise UserError(f"{root} mixes CLASS/image with CLIENT/CLASS/image; use one layout.")
  return files


def _split(files: list[_File], path: str, seed: int) -> tuple[list[_File], list[_File]]:
  groups = [f"{file.client}/{file.label}" for file in files]
  num_test = max(1, round(_TEST_SHARE * len(files)))
  train, test = stratified_split(np.asarray(groups), num_test, seed)
  if not len(test):
    raise UserError(f"{path} has one image a class, none left to test on; add images.")
  return [files[i] for i in train], [files[i] for i in test]


def _header(file: _File) -> tuple[int, int, int]:
  return images_lib.header(file.path, file.path)


def _same_size(files: tuple[_File, ...], shapes: list[tuple[int, int, int]]) -> None:
  for file, shape in zip(files, shapes, strict=True):
    if shape[:2] != shapes[0][:2]:
      raise UserError(
        f"{file.path} has {shape[0]}x{shape[1]} pixels where {files[0].path} has"
        f" {shapes[0][0]}x{shapes[0][1]}; give an image size to resize them all to."
      )


def _decode(
  files: list[_File],
  class_names: tuple[str, ...],
  client_names: tuple[str, ...] | None,
  channels: int,
  image_size: int | None,
  mine: own.Mine | None,
) -> Examples:
  paths = [file.path for file in files]
  label_of = {name: label for label, name in enumerate(class_names)}
  labels = np.asarray([label_of[file.label] for file in files], np.int32)
  clients = None
  if client_names is not None:
    client_of = {name: client for client, name in enumerate(client_names)}
    clients = np.asarray([client_of[file.client] for file in files if file.client], np.int32)

  def read(ids: np.ndarray | None) -> np.ndarray:
    wanted = paths if ids is None else [paths[i] for i in ids]
    return images_lib.stack(wanted, len(paths), paths.__getitem__, channels, image_size, ids)

  return own.examples(labels, clients, read, mine)
