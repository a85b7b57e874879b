"""Formats tables as CSV and Markdown text."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def as_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """Returns CSV text: a line with the column names ``head``, then one line per row."""
  out = io.StringIO()
  csv.writer(out, lineterminator="\n").writerows([head, *rows])
  return out.getvalue()


def as_markdown(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
  """Returns a Markdown table; aligns its first ``left`` columns left and all others right."""
  rule = ["---"] * left + ["---:"] * (len(head) - left)
  return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
