"""Builds HTML from text: what is not marked as HTML is escaped."""

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Html(str):
  """Text that is HTML already, and therefore not escaped."""


class Cell(NamedTuple):
  """A cell of a table.

  Attributes:
    content: text, or HTML.
    value: number by which a table is sorted; None sorts by the text, NaN comes last.
  """

  content: str
  value: float | None = None


def join(parts: Iterable[str]) -> Html:
  """Returns the parts one after the other; a part that is not HTML is escaped."""
  return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts))


def element(name: str, *content: str, **attributes: str) -> Html:
  """Returns an element; a final underscore of an attribute's name is dropped, others are hyphens.

  ``element("a", "there", href="#x", data_value="1")`` is ``<a href="#x" data-value="1">there</a>``.
  """
  names = (key.rstrip("_").replace("_", "-") for key in attributes)
  pairs = zip(names, attributes.values(), strict=True)
  inside = "".join(f' {key}="{html.escape(str(value))}"' for key, value in pairs)
  return Html(f"<{name}{inside}>{join(content)}</{name}>")


def items(sentences: Iterable[str]) -> Html:
  """Returns a list, or nothing for no sentences."""
  lines = [element("li", sentence) for sentence in sentences]
  return element("ul", *lines) if lines else Html()


def pairs(texts: Mapping[str, str]) -> Html:
  """Returns names with their texts."""
  entries = ((element("dt", name), element("dd", text)) for name, text in texts.items())
  return element("dl", *(part for entry in entries for part in entry))


def details(summary: str, *content: str) -> Html:
  """Returns content that a click on ``summary`` shows."""
  return element("details", element("summary", summary), *content)


def copy_button(command: str) -> Html:
  """Returns a button that copies a command."""
  label = f"copy: {command}"
  return element("button", "copy", class_="copy", type="button", data_copy=command, title=label)


def picture(png: bytes, description: str) -> Html:
  """Returns a picture that the page contains; 144 of its pixels are an inch."""
  width = int.from_bytes(png[16:20], "big") * 96 // 144  # a page has 96 pixels per inch
  data = f"data:image/png;base64,{base64.b64encode(png).decode()}"
  return Html(f'<img src="{data}" alt="{html.escape(description)}" width="{width}">')


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], highlighted: int = -1) -> Html:
  """Returns a table that is sorted by a click on a header.

  The row with index ``highlighted`` is emphasized.
  """
  head = []
  for i, text in enumerate(heads):
    kind = {"class_": "number"} if all(row[i].value is not None for row in rows) else {}
    head.append(element("th", element("button", text, type="button"), aria_sort="none", **kind))
  lines = []
  for i, row in enumerate(rows):
    cells = list(map(_cell, row))
    lines.append(element("tr", *cells, **({"class_": "best"} if i == highlighted else {})))
  whole = element(
    "table", element("thead", element("tr", *head)), element("tbody", *lines), class_="sortable"
  )
  return element("div", whole, class_="wide")


def _cell(cell: Cell) -> Html:
  if cell.value is None:
    return element("td", cell.content)
  value = f"{cell.value!r}" if math.isfinite(cell.value) else ""
  return element("td", cell.content, class_="number", data_value=value)
