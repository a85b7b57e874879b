"""Writes files so that a kill or a full disk leaves either the old or the new content."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError

# A list of numbers as indented JSON text; JSON strings contain no line breaks.
_NUMBERS = re.compile(r"\[\n *[-+\w.]+(?:,\n *[-+\w.]+)*\n *\]")


def make_folder(path: Path) -> None:
  """Creates a folder and its parents, unless they exist.

  Raises:
    UserError: the path or one of its parents is a file, or the folder is not writable.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    raise UserError(
      f"The folder {path} cannot be created because it or one of its parents is a file; move the "
      "file away or pass another --workdir."
    ) from error
  if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
    raise UserError(
      f"The folder {path} is not writable; change its permissions or pass another --workdir."
    )


@contextlib.contextmanager
def filename_in_errors(path: Path) -> Iterator[None]:
  """Makes every ``OSError`` raised in the block name ``path``.

  Without this function, an error can name only a file descriptor or a temporary file.
  """
  try:
    yield
  except OSError as error:
    error.filename, error.filename2 = str(path), None
    raise


@contextlib.contextmanager
def atomic_replacement(path: Path) -> Iterator[Path]:
  """Yields the path of a temporary file, which replaces ``path`` if the block raises no error.

  Args:
    path: the file to create or replace, in an existing folder.

  Raises:
    OSError: the file cannot be written. The error names ``path``; the temporary file is deleted.
  """
  temporary = path.with_name(path.name + ".tmp")
  try:
    with filename_in_errors(path):
      yield temporary
      os.replace(temporary, path)
      # The rename is an entry of the folder, so the folder has to be synced as well.
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
  """Replaces a file's content; a kill leaves either the old or the new content.

  Args:
    path: the file to create or replace, in an existing folder.
    data: the complete new content.
    opener: the ``opener`` argument of ``open``, to set permissions.

  Raises:
    OSError: the file cannot be written. The error names ``path``, which keeps the old content.
  """
  with atomic_replacement(path) as temporary, open(temporary, "wb", opener=opener) as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def append(path: Path, data: bytes) -> None:
  """Appends data to a file, which is created if missing; waits until the data is on the disk.

  Raises:
    OSError: the data cannot be written. The error names ``path``, which keeps the old content.
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
  """Replaces a file by a dict as JSON text; a kill leaves either the old or the new content.

  A list of numbers, such as a row of a confusion matrix, stands on one line.
  """
  text = _NUMBERS.sub(
    lambda found: f"[{' '.join(found[0][1:-1].split())}]", json.dumps(content, indent=2)
  )
  write_atomic(path, f"{text}\n".encode())


def read_json(file: Path) -> dict[str, Any]:
  """Returns the JSON object that a file of a run contains.

  Raises:
    UserError: the file cannot be read or does not contain a JSON object.
  """
  try:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
      raise ValueError
  except OSError as error:
    raise UserError(
      f"{file} cannot be read ({error.strerror}); change its permissions or pass another --workdir."
    ) from error
  except (ValueError, RecursionError) as error:
    raise UserError(
      f"{file} is damaged: it contains no JSON object; restore the file or pass another --workdir."
    ) from error
  return content
