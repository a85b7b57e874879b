"""CIFAR-10: the official archive, in its version for Python or in binary."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fedjax_norm.data.archives import png
from fedjax_norm.data.archives.builder import ArchiveBuilder, Contents, Example
from fedjax_norm.errors import UserError

_NAMES = (
  *("airplane", "automobile", "bird", "cat", "deer"),
  *("dog", "frog", "horse", "ship", "truck"),
)
_PIXELS = 3 * 32 * 32
_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}


class Cifar10(ArchiveBuilder, skip_registration=True):  # type: ignore[call-arg]
  """CIFAR-10: 32x32 RGB images of ten classes; splits `train` and `test`."""

  name = "cifar10"
  VERSION = tfds.core.Version("3.0.2")  # as TFDS numbers it
  shape = (32, 32, 3)
  encoding = "png"
  about = "CIFAR-10: 32x32 colour images of ten classes."


def read(path: Path) -> Contents:
  """Reads the archive.

  Raises:
    UserError: it is damaged or has another layout.
  """
  try:
    with tarfile.open(path) as archive:
      files = {
        Path(member.name).name.removesuffix(".bin"): _content(archive, member)
        for member in archive
        if member.isfile() and Path(member.name).name.startswith(("data_batch_", "test_batch"))
      }
    batches = {split: [_batch(files[name]) for name in names] for split, names in _BATCHES.items()}
  except KeyError as error:
    raise UserError(
      f"{path} is not the archive of CIFAR-10 (it lacks {error.args[0]}); download it again."
    ) from error
  except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
    if isinstance(error, OSError) and error.errno is not None:  # such as permissions
      raise
    raise UserError(f"{path} is damaged; download it again.") from error
  parts = {
    split: [np.concatenate(arrays) for arrays in zip(*pairs, strict=True)]
    for split, pairs in batches.items()
  }

  def examples(split: str) -> Iterator[Example]:
    images, labels = parts[split]
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
      yield f"{split}_{i}", png.encoded(pixels), int(label)

  return Contents(_NAMES, {split: len(part[1]) for split, part in parts.items()}, examples)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
  file = archive.extractfile(member)
  assert file
  return file.read()


def _batch(data: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Returns images [N, 32, 32, 3] and labels [N] of a file, which is a pickle or binary records.

  A pickle begins with the byte 0x80 or, in protocol 0, with ``(``; a record begins with its class.

  Raises:
    ValueError: the file has another content.
  """
  if data[:1] in (b"\x80", b"("):
    try:
      content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
      pixels, labels = content[b"data"], np.asarray(content[b"labels"])
    except (pickle.UnpicklingError, KeyError, TypeError, IndexError, AttributeError) as error:
      raise ValueError("not a batch of CIFAR-10") from error
  else:
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PIXELS)
    labels, pixels = records[:, 0], records[:, 1:]
  images = np.asarray(pixels, np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  if not len(images) or len(images) != len(labels) or np.max(labels) >= len(_NAMES):
    raise ValueError("not a batch of CIFAR-10")
  return images, labels


class _Unpickler(pickle.Unpickler):
  """Reads NumPy arrays and nothing else: a pickle of unknown origin may run any code."""

  def find_class(self, module: str, name: str) -> Any:
    """Returns what makes a NumPy array."""
    allowed = {
      "_reconstruct": np.zeros(0).__reduce__()[0],
      "ndarray": np.ndarray,
      "dtype": np.dtype,
    }
    if module.split(".")[0] == "numpy" and name in allowed:
      return allowed[name]
    if (module, name) == ("_codecs", "encode"):
      return lambda text, encoding: text.encode(encoding)
    raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
