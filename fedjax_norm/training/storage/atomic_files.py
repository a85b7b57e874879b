"""Files that a kill or a full disk leaves whole: with the old content or the new one."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError


@contextlib.contextmanager
def filename_in_errors(path: Path) -> Iterator[None]:
  """Gives every ``OSError`` of the block the name of the file that the user knows.

  Args:
    path: the file, which the system may know by a descriptor or by a temporary name only.
  """
  try:
    yield
  except OSError as error:
    error.filename, error.filename2 = str(path), None
    raise


@contextlib.contextmanager
def atomic_replacement(path: Path) -> Iterator[Path]:
  """Gives a temporary file that replaces another one when the block ends well.

  Args:
    path: the file to replace; its folder exists.

  Raises:
    OSError: with the name of ``path``; what is half written is gone then.
  """
  temporary = path.with_name(path.name + ".tmp")
  try:
    with filename_in_errors(path):
      yield temporary
      os.replace(temporary, path)
      # The rename itself lives in the folder, which has to reach the disk too.
      folder = os.open(path.parent, os.O_RDONLY)
      try:
        os.fsync(folder)
      finally:
        os.close(folder)
  except OSError:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise


def write_atomic(path: Path, data: bytes, opener: Callable[[str, int], int] | None = None) -> None:
  """Replaces a file's content so that a kill leaves either the old or the new one.

  Args:
    path: the file; its folder exists.
    data: the whole new content.
    opener: as of ``open``, for other permissions than usual.

  Raises:
    OSError: with the name of ``path``, which then keeps its old content.
  """
  with atomic_replacement(path) as temporary, open(temporary, "wb", opener=opener) as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def append(path: Path, data: bytes) -> None:
  """Adds to the end of a file, on the disk on return.

  Args:
    path: the file, created where absent; its folder exists.
    data: what to add.

  Raises:
    OSError: with the name of ``path``, which then keeps its old content.
  """
  with filename_in_errors(path):
    size = path.stat().st_size if path.exists() else 0
    try:
      with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
      with contextlib.suppress(OSError):
        os.truncate(path, size)
      raise


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Writes a dict of JSON types, whole or not at all."""
  write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(file: Path) -> dict[str, Any]:
  """The object that a JSON file of a run holds.

  Raises:
    UserError: it cannot be read, or is damaged.
  """
  try:
    content = json.loads(file.read_text(encoding="utf-8"))
  except OSError as error:
    raise UserError(
      f"{file} cannot be read ({error.strerror}); change its permissions or pass another --workdir."
    ) from error
  except ValueError as error:
    raise UserError(
      f"{file} is damaged and does not read as JSON; restore it or pass another --workdir."
    ) from error
  if not isinstance(content, dict):
    raise UserError(
      f"{file} is damaged and holds no JSON object; restore it or pass another --workdir."
    )
  return content
