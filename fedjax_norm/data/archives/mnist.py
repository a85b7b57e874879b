"""MNIST: the four official files, compressed or not."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from fedjax_norm.data.archives import png
from fedjax_norm.data.archives.builder import ArchiveBuilder, Contents, Example
from fedjax_norm.errors import UserError

_PREFIXES = {"train": "train", "test": "t10k"}


class Mnist(ArchiveBuilder, skip_registration=True):  # type: ignore[call-arg]
  """MNIST: 28x28 gray images of handwritten digits; splits `train` and `test`."""

  name = "mnist"
  VERSION = tfds.core.Version("3.0.1")  # as TFDS numbers it
  shape = (28, 28, 1)
  encoding = "png"
  about = "MNIST: 28x28 gray images of handwritten digits."


def read(path: Path) -> Contents:
  """Reads the files in the folder of the file ``path``.

  Raises:
    UserError: a file is missing, damaged or has another content.
  """
  parts = {}
  for split, prefix in _PREFIXES.items():
    images = _array(path.parent, f"{prefix}-images-idx3-ubyte", 3)
    labels = _array(path.parent, f"{prefix}-labels-idx1-ubyte", 1)
    if len(images) != len(labels) or images.shape[1:] != (28, 28) or labels.max(initial=0) > 9:
      raise UserError(f"The files {prefix}-* in {path.parent} are not those of MNIST.")
    parts[split] = images, labels

  def examples(split: str) -> Iterator[Example]:
    for i, (pixels, label) in enumerate(zip(*parts[split], strict=True)):
      yield f"{split}_{i}", png.encoded(pixels), int(label)

  names = tuple(str(digit) for digit in range(10))
  return Contents(names, {split: len(part[1]) for split, part in parts.items()}, examples)


def _array(folder: Path, name: str, dimensions: int) -> np.ndarray:
  """Returns the uint8 array of an IDX file: zeros, type, dimensions, sizes, values."""
  plain, packed = folder / name, folder / f"{name}.gz"
  path = plain if plain.is_file() else packed
  if not path.is_file():
    raise UserError(f"There is no {packed}; download all four files of MNIST into this folder.")
  try:
    data = path.read_bytes() if path == plain else gzip.decompress(path.read_bytes())
    if data[:4] != bytes((0, 0, 8, dimensions)):
      raise ValueError("header")
    shape = np.frombuffer(data, ">u4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
  except (OSError, EOFError, zlib.error, ValueError) as error:
    raise UserError(f"{path} is damaged or not an IDX file; download it again.") from error
