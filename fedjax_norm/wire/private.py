"""Files that only their owner may read."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fedjax_norm.errors import UserError
from fedjax_norm.training import files


def create(path: Path, data: bytes) -> None:
  """Writes a new file with mode 0600.

  Raises:
    UserError: it is there already, or cannot be written.
  """
  try:
    descriptor = _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
  except FileExistsError as error:
    raise UserError(
      f"{path} is there already and is not overwritten; move it or choose another folder."
    ) from error
  except OSError as error:
    raise UserError(f"{path} cannot be written ({error.strerror}).") from error
  with open(descriptor, "wb") as file:
    file.write(data)
    file.flush()
    os.fsync(descriptor)


def replace(path: Path, data: bytes) -> None:
  """Replaces a file, whole or not at all; it has mode 0600."""
  with replacing(path, data):
    pass


@contextlib.contextmanager
def replacing(path: Path, data: bytes) -> Iterator[None]:
  """Replaces a file when the block has ended well; its new content is on the disk before.

  Args:
    path: the file, which gets mode 0600.
    data: its content.
  """
  with files.replacing(path) as temporary:
    with open(temporary, "wb", opener=_opened) as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    yield


def _opened(path: str | Path, flags: int) -> int:
  descriptor = os.open(path, flags, 0o600)
  os.fchmod(descriptor, 0o600)  # of a file that a kill has left, too
  return descriptor
