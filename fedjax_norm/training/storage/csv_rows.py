"""Writes tables as CSV files, and reads each value back exactly as it was written."""

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.atomic_files import append, write_atomic

Row = dict[str, Any]
"""Column name -> an int, a float or a str; the column ``round`` is an int."""

_INTEGER = re.compile(r"-?[0-9]+")
_FLOAT = re.compile(r"-?([0-9]+\.[0-9]*(e[+-]?[0-9]+)?|[0-9]+e[+-]?[0-9]+|inf)|nan")


def scalar(name: str, value: Any) -> int | float | str:
  """Converts a value to the int, float or str that a row stores.

  Args:
    name: name of the column, for error messages.
    value: an int, a float, a str, or a zero-dimensional array.

  Raises:
    ValueError: the value is a str that would be read back as a number or as several lines.
    TypeError: the value has another type.
  """
  if getattr(value, "shape", None) == () and hasattr(value, "item"):
    value = value.item()
  if isinstance(value, str):
    if "\n" in value or "\r" in value or not isinstance(_parse(value), str):
      raise ValueError(
        f"The text {value!r} in column {name!r} would be read back as a number or as several lines."
      )
    return value
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"Column {name!r} has {value!r}; a metric is an int, a float or a str.")
  return value


def write_table(path: Path, rows: list[Row]) -> None:
  """Writes rows to a CSV file with the columns of the first row; does nothing without rows."""
  if rows:
    write_rows(path, rows)


def write_rows(path: Path, rows: list[Row]) -> None:
  """Replaces a CSV file by rows with the columns of the first row; without rows, empties it."""
  write_atomic(path, csv_lines(rows, tuple(rows[0]), header=True) if rows else b"")


def append_rows(path: Path, rows: list[Row], columns: tuple[str, ...], header: bool) -> None:
  """Appends rows to a CSV file, created if missing, and waits until they are on the disk.

  Args:
    path: the file.
    rows: the rows, each with all columns.
    columns: column names, in the order of the file.
    header: whether to write a line of column names before the rows.
  """
  append(path, csv_lines(rows, columns, header))


def read_rows(path: Path) -> tuple[list[Row], bool]:
  """Returns (the complete rows of a CSV file, whether an incomplete last line was dropped).

  Raises:
    UserError: the file cannot be read or is not CSV text, or a complete line has another number of
      values than the header or no integer in the column ``round``.
  """
  if not path.exists():
    return [], False
  try:
    # A line and its line end are written together, so a line without an end is incomplete.
    complete, _, tail = path.read_bytes().rpartition(b"\n")
    header, *lines = csv.reader(io.StringIO(complete.decode(), newline="")) if complete else [[]]
  except OSError as error:
    raise UserError(
      f"{path} cannot be read ({error.strerror}); change its permissions or pass another --workdir."
    ) from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(
      f"{path} is damaged and cannot be read as CSV text; restore it or pass another --workdir."
    ) from error
  rows = []
  for number, line in enumerate(lines, start=2):
    row = dict(zip(header, map(_parse, line), strict=False))
    if len(line) != len(header) or not isinstance(row.get("round"), int):
      raise UserError(
        f"Line {number} of {path} is damaged; repair the line or pass another --workdir."
      )
    rows.append(row)
  # A header without rows counts as incomplete too: the next row writes the header again.
  return rows, bool(tail) or (bool(complete) and not rows)


def csv_lines(rows: list[Row], columns: tuple[str, ...], header: bool) -> bytes:
  """Returns rows as CSV text in UTF-8; the arguments are those of :func:`append_rows`."""
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
