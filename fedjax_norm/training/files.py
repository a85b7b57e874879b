"""Files that a kill leaves whole: the old content or the new one."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError


def write_atomic(path: Path, data: bytes, opener: Callable[[str, int], int] | None = None) -> None:
  """Replaces a file's content so that a kill leaves either the old or the new one.

  Args:
    path: the file; its folder exists.
    data: the whole new content.
    opener: as of ``open``, for other permissions than usual.
  """
  temporary = path.with_name(path.name + ".tmp")
  with open(temporary, "wb", opener=opener) as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
  # The rename itself lives in the folder, which has to reach the disk too.
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


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
