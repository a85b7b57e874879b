"""Tables as text."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def as_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """The text of a CSV file: a line of the columns' names, and one for each row."""
  out = io.StringIO()
  csv.writer(out, lineterminator="\n").writerows([head, *rows])
  return out.getvalue()


def as_markdown(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
  """A Markdown table, whose columns after the first ones are set to the right."""
  rule = ["---"] * left + ["---:"] * (len(head) - left)
  return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
