"""Shared by all plots: colours, lines, empty panels, and saving a figure.

Each plot is a pure function that returns a figure. Rows are those of ``RunFolder.rows``, with the
column ``round`` and, if present, ``train_loss``, ``loss``, ``simulated_seconds`` and the measures
of ``evaluation/measures.py``.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, MaxNLocator, NullFormatter

from fedjax_norm.evaluation.measures import Measure
from fedjax_norm.training.storage.atomic_files import atomic_replacement

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito's colours, distinct with any common colour blindness, without yellow, which is too
# light for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
MOST_NAMED = 20
"""Largest number of classes or regions with distinct colours and a legend."""
FREEZE_LINE: dict[str, Any] = {"color": "0.45", "linestyle": ":", "linewidth": 1.2, "zorder": 1}
"""Style of the line at the round at which FixBN freezes its statistics."""


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Atomically writes a figure as a PNG file to ``path``, in an existing folder."""
  with atomic_replacement(Path(path)) as temporary:
    FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=144, bbox_inches="tight")


def new_figure(title: str, size: tuple[float, float], panels: int) -> tuple[Figure, list[Axes]]:
  """Returns a figure with a number of empty panels side by side, whose x axis is the round.

  ``title`` is one line, ``size`` the width and height in inches.
  """
  figure = Figure(figsize=size, layout="constrained")
  FigureCanvasAgg(figure)
  figure.suptitle(plain(title), fontsize=12)
  panes = list(np.atleast_1d(figure.subplots(1, panels))) if panels else []
  for axes in panes:
    tidy(axes)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
  return figure, panes


def tidy(axes: Axes) -> None:
  """Removes the top and right borders of a panel, and draws a light grid behind the data."""
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(axis="y", color="0.9", linewidth=0.8)
  axes.set_axisbelow(True)


def test_label(measure: Measure) -> str:
  """Returns the label of an axis that shows a test measure."""
  if measure.title == "top-1":
    return "top-1 test accuracy"
  return measure.title + ("" if measure.best_is_one else " (lower is better)")


def log_axis(axes: Axes, form: Formatter) -> None:
  """Makes the x axis logarithmic, with some ticks in any range, which do not overlap.

  Its right end is at least twice its left end, so that values that differ little look alike.

  Call it after the data is drawn; ``form`` formats the ticks.
  """
  axes.set_xscale("log")
  low, high = axes.get_xlim()
  if high < 2 * low:
    middle = (low * high) ** 0.5
    low, high = axes.set_xlim(middle / 2**0.5, middle * 2**0.5)
  # Ticks only at powers of ten would be too few on a short axis; more overlap on a long axis.
  within = (1, 2, 5) if high < 20 * low else (1, 3) if high < 300 * low else (1,)
  few = MaxNLocator(4, steps=[1, 2, 5, 10])
  axes.xaxis.set_major_locator(few if high < 5 * low else LogLocator(10, within))
  axes.xaxis.set_major_formatter(form)
  axes.xaxis.set_minor_formatter(NullFormatter())
  axes.grid(axis="x", color="0.93", linewidth=0.8)


def log_values(axes: Axes, form: Formatter) -> None:
  """Makes the y axis logarithmic, with labels also where the values differ little.

  Call it after the data is drawn; ``form`` formats the ticks.
  """
  axes.set_yscale("log")
  low, high = axes.get_ylim()
  axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
  axes.yaxis.set_minor_formatter(NullFormatter())
  axes.yaxis.set_major_formatter(form)


def bytes_axis(axes: Axes) -> None:
  """Makes the x axis that of the bytes that all clients sent and received, logarithmic."""
  log_axis(axes, EngFormatter("B"))
  axes.set_xlabel("bytes up and down, all clients")


def column(rows: Rows, name: str, against: str = "round") -> tuple[np.ndarray, np.ndarray]:
  """Returns the columns ``against`` (x) and ``name`` (y), of the rows that have ``name``."""
  pairs = [(row[against], row[name]) for row in rows if name in row]
  x, values = zip(*pairs, strict=True) if pairs else ((), ())
  return np.asarray(x), np.asarray(values, dtype=np.float64)


def curves(axes: Axes, rows: Rows, names: Mapping[str, str], against: str = "round") -> None:
  """Draws a labelled line for each column that the rows have; ``names`` is column -> label.

  ``against`` is the column of the x values.
  """
  for i, (name, label) in enumerate(names.items()):
    x, values = column(rows, name, against)
    if x.size:
      line(axes, x, values, label, i)


def line(axes: Axes, x: np.ndarray, values: np.ndarray, label: str, i: int) -> None:
  """Draws the i-th line of a panel, in the i-th style."""
  # About eight markers per line, shifted from line to line so that they do not overlap.
  step = max(1, len(x) // 8)
  axes.plot(x, values, label=label, markevery=(i % step, step), **style(i))


def style(i: int) -> dict[str, Any]:
  """Returns colour, line style and marker of the i-th line; the first 308 are all different."""
  # The lengths of the three cycles have no common factor.
  return {
    "color": COLOURS[i % len(COLOURS)],
    "linestyle": _STYLES[i % len(_STYLES)],
    "marker": _MARKERS[i % len(_MARKERS)],
    "markersize": 4.5,
    "linewidth": 1.6,
  }


def shortened(name: str, most: int = 32) -> str:
  """Returns a name for a plot, without its middle if it has more than ``most`` characters.

  Long names of runs and clients often differ only at their ends.
  """
  end = (most - 1) // 2
  return plain(name if len(name) <= most else f"{name[: most - 1 - end]}…{name[-end:]}")


def plain(text: str) -> str:
  """Returns text that is drawn as it is; Matplotlib would read what is between two $ as TeX."""
  return re.sub(r"(?<!\\)\$", r"\\$", text)


def category_colours(classes: int) -> list[Any]:
  """Returns a colour for each class or region, as distinct as possible."""
  if classes <= len(COLOURS):
    return list(COLOURS[:classes])
  if classes <= 10:
    return [*COLOURS, "#F0E442", "#999999", "#882255"][:classes]
  if classes <= MOST_NAMED:
    return list(matplotlib.colormaps["tab20"](np.arange(classes)))
  return list(matplotlib.colormaps["turbo"](np.linspace(0.02, 0.98, classes)))
