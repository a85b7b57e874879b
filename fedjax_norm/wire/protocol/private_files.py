"""Files that only their owner may read."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage import atomic_files


def create(path: Path, data: bytes) -> None:
  """Writes a new file with mode 0600.

  Raises:
    UserError: the file already exists.
    OSError: the file cannot be written; the error names ``path``, and no file is left.
  """
  with atomic_files.filename_in_errors(path):
    try:
      with open(path, "xb", opener=_open_private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    except FileExistsError as error:
      raise UserError(
        f"{path} already exists and is not overwritten; move it or choose another folder."
      ) from error
    except OSError:
      with contextlib.suppress(OSError):
        path.unlink()
      raise


def check(path: Path) -> None:
  """Raises ``UserError`` if the mode of a private key lets other users read or write it."""
  if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
    raise UserError(
      f"the private key {path} has mode {mode:04o}, so that other users can access it; run chmod "
      "600 on it."
    )


def replace(path: Path, data: bytes) -> None:
  """Replaces a file atomically; the new file has mode 0600."""
  atomic_files.write_atomic(path, data, _open_private)


@contextlib.contextmanager
def replacing(path: Path, data: bytes) -> Iterator[None]:
  """Writes the new content to the disk, and replaces the file if the block ends without error."""
  with atomic_files.atomic_replacement(path) as temporary:
    with open(temporary, "wb", opener=_open_private) as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    yield


def _open_private(path: str | Path, flags: int) -> int:
  descriptor = os.open(path, flags, 0o600)
  os.fchmod(descriptor, 0o600)  # also of a file that a killed process left behind
  return descriptor
