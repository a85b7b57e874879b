"""Formats tables, durations and byte counts for the terminal."""

import math
import re
from collections.abc import Sequence

from fedjax_norm.host_memory import human_bytes as human_bytes

_NUMERIC = re.compile(r"[-+]?[0-9.,]+(e[-+]?[0-9]+)?( ?(%|[a-zA-Z]{1,3}))?( ±.*)?|nan|-|")


def human_seconds(seconds: float) -> str:
  """Formats a duration: ``12 ms``, ``3.4 s``, ``2 min 05 s``, ``1 h 07 min``, ``3 d 02 h``.

  Raises:
    ValueError: ``seconds`` is negative or not finite.
  """
  if not 0 <= seconds < math.inf:
    raise ValueError(f"A duration must be finite and not negative, not {seconds} seconds.")
  if round(seconds * 1000) < 1000:
    return f"{seconds * 1000:.0f} ms"
  if round(seconds, 1) < 60:
    return f"{seconds:.1f} s"
  for size, above, unit, name in ((1, 60, "s", "min"), (60, 60, "min", "h")):
    high, low = divmod(round(seconds / size), above)
    if high < (24 if name == "h" else 60):
      return f"{high} {name} {low:02d} {unit}"
  high, low = divmod(round(seconds / 3600), 24)
  return f"{high} d {low:02d} h"


def summary_table(title: str, pairs: Sequence[tuple[str, str]]) -> str:
  """Formats (name, value) pairs in two aligned columns under a title of one line.

  A value can have several lines. The text has no trailing spaces and no final line end.
  """
  width = max((len(name) for name, _ in pairs), default=0)
  lines = [title, "-" * len(title)]
  for name, value in pairs:
    first, *others = str(value).splitlines() or [""]
    lines += [f"{name:<{width}}  {first}", *(" " * (width + 2) + other for other in others)]
  return "\n".join(line.rstrip() for line in lines)


def columns_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Formats rows under headers; columns of numbers are right-aligned, columns of text left-aligned.

  The table has no trailing spaces and no final line end.

  Raises:
    ValueError: the number of cells in a row differs from the number of headers.
  """
  for row in rows:
    if len(row) != len(headers):
      raise ValueError(f"A row has {len(row)} cells under {len(headers)} headers.")
  cells = [[str(cell) for cell in row] for row in rows]
  columns = [[header, *(row[i] for row in cells)] for i, header in enumerate(headers)]
  widths = [max(map(len, column)) for column in columns]
  right = [
    len(column) > 1 and all(_NUMERIC.fullmatch(cell) for cell in column[1:]) for column in columns
  ]

  def line(row: Sequence[str]) -> str:
    parts = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True))
    return "  ".join(parts).rstrip()

  return "\n".join([line(headers), "  ".join("-" * w for w in widths), *map(line, cells)])
