"""Tables as CSV text: rows of which every value reads back as itself."""

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.atomic_files import append, write_atomic

Row = dict[str, Any]
"""Column name to an int, a float or a str; ``round`` is an int."""

_INTEGER = re.compile(r"-?[0-9]+")
_FLOAT = re.compile(r"-?([0-9]+\.[0-9]*(e[+-]?[0-9]+)?|[0-9]+e[+-]?[0-9]+|inf)|nan")


def scalar(name: str, value: Any) -> int | float | str:
  """The value of a column as a row has it.

  Args:
    name: of the column.
    value: an int, a float, a str, or a zero-dimensional array.

  Raises:
    ValueError: a text that would not read back as itself.
    TypeError: anything else.
  """
  if getattr(value, "shape", None) == () and hasattr(value, "item"):
    value = value.item()
  if isinstance(value, str):
    if "\n" in value or "\r" in value or not isinstance(_parse(value), str):
      raise ValueError(f"The text {value!r} in column {name!r} would not read back as itself.")
    return value
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"Column {name!r} holds {value!r}; a metric is an int, a float or a str.")
  return value


def write_table(path: Path, rows: list[Row]) -> None:
  """Writes a CSV file of rows with the columns of the first; none without rows."""
  if rows:
    write_rows(path, rows)


def write_rows(path: Path, rows: list[Row]) -> None:
  """Replaces a CSV file by rows with the columns of the first; an empty file without rows."""
  write_atomic(path, _lines(rows, tuple(rows[0]), header=True) if rows else b"")


def append_rows(path: Path, rows: list[Row], columns: tuple[str, ...], header: bool) -> None:
  """Adds rows to a CSV file, on the disk on return.

  Args:
    path: the file.
    rows: each with all of the columns.
    columns: in their order.
    header: whether a line of their names goes first.
  """
  append(path, _lines(rows, columns, header))


def read_rows(path: Path) -> tuple[list[Row], bool]:
  """The complete rows of a file, and whether an incomplete last line was left out.

  Raises:
    UserError: a line other than that does not read as a row.
  """
  if not path.exists():
    return [], False
  # A line is written with its end in one go, so that one without an end is torn.
  whole, _, tail = path.read_bytes().rpartition(b"\n")
  try:
    header, *lines = csv.reader(io.StringIO(whole.decode(), newline="")) if whole else [[]]
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(
      f"{path} is damaged and does not read as CSV text; restore it or pass another --workdir."
    ) from error
  rows = []
  for number, line in enumerate(lines, start=2):
    row = dict(zip(header, map(_parse, line), strict=False))
    if len(line) != len(header) or not isinstance(row.get("round"), int):
      raise UserError(
        f"Line {number} of {path} is damaged; repair the line or pass another --workdir."
      )
    rows.append(row)
  # A header alone, its row torn off, is as good as nothing: the next row writes it again.
  return rows, bool(tail) or (bool(whole) and not rows)


def _lines(rows: list[Row], columns: tuple[str, ...], header: bool) -> bytes:
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator="\n")
  if header:
    writer.writerow(columns)
  writer.writerows([_format(row[name]) for name in columns] for row in rows)
  return buffer.getvalue().encode()


def _format(value: int | float | str) -> str:
  if isinstance(value, float) and math.isnan(value):
    return "nan"
  return value if isinstance(value, str) else repr(value)


def _parse(text: str) -> int | float | str:
  if _INTEGER.fullmatch(text):
    return int(text)
  return float(text) if _FLOAT.fullmatch(text) else text
