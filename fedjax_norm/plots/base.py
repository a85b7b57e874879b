"""What the pictures of ``*_plots.py`` share: colours, lines, empty panels, and how one is saved.

Each of them has a pure function that builds the figure. Rows are those of ``RunFolder.rows``, with
the columns ``round``, those of ``measures.py`` and, where there are any, ``train_loss``, ``loss``
and ``simulated_seconds``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_norm.training.storage.atomic_files import atomic_replacement

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito's colours, told apart with any common colour blindness; yellow is left out, which
# is too light for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
MOST_NAMED = 20
"""So many classes or regions have colours of their own."""


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Writes a figure as a PNG, whole or not at all.

  Args:
    figure: one of this module's.
    path: the file; its folder exists.
  """
  with atomic_replacement(Path(path)) as temporary:
    FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=144, bbox_inches="tight")


def new_figure(title: str, size: tuple[float, float], panels: int) -> tuple[Figure, list[Axes]]:
  """Empty panels side by side, against the round.

  Args:
    title: one line.
    size: width and height in inches.
    panels: how many.
  """
  figure = Figure(figsize=size, layout="constrained")
  FigureCanvasAgg(figure)
  figure.suptitle(title, fontsize=12)
  panes = list(np.atleast_1d(figure.subplots(1, panels)))
  for axes in panes:
    tidy(axes)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
  return figure, panes


def tidy(axes: Axes) -> None:
  """Leaves out what no panel needs, and puts fine lines behind what is drawn."""
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(axis="y", color="0.9", linewidth=0.8)
  axes.set_axisbelow(True)


def column(rows: Rows, name: str, against: str = "round") -> tuple[np.ndarray, np.ndarray]:
  """(where, what): the values of a column against another's."""
  pairs = [(row[against], row[name]) for row in rows if name in row]
  places, values = zip(*pairs, strict=True) if pairs else ((), ())
  return np.asarray(places), np.asarray(values, dtype=np.float64)


def curves(axes: Axes, rows: Rows, names: Mapping[str, str], against: str = "round") -> None:
  """A line for each column that there is.

  Args:
    axes: to draw on.
    rows: of metrics.
    names: a column -> what it is called.
    against: the column that says where.
  """
  for i, (name, label) in enumerate(names.items()):
    places, values = column(rows, name, against)
    if places.size:
      line(axes, places, values, label, i)


def line(axes: Axes, places: np.ndarray, values: np.ndarray, label: str, i: int) -> None:
  """The i-th line of a panel."""
  # About eight markers a line, at other places on each, so that none hides another.
  step = max(1, len(places) // 8)
  axes.plot(places, values, label=label, markevery=(i % step, step), **style(i))


def style(i: int) -> dict[str, Any]:
  """Colour, line and marker of the i-th line; no two of the first 308 are alike."""
  # Three cycles of lengths without a common factor.
  return {
    "color": COLOURS[i % len(COLOURS)],
    "linestyle": _STYLES[i % len(_STYLES)],
    "marker": _MARKERS[i % len(_MARKERS)],
    "markersize": 4.5,
    "linewidth": 1.6,
  }


def category_colours(classes: int) -> list[Any]:
  """Colours for so many classes or regions, as distinct as there are."""
  if classes <= len(COLOURS):
    return list(COLOURS[:classes])
  if classes <= 10:
    return [*COLOURS, "#F0E442", "#999999", "#882255"][:classes]
  if classes <= MOST_NAMED:
    return list(matplotlib.colormaps["tab20"](np.arange(classes)))
  return list(matplotlib.colormaps["turbo"](np.linspace(0.02, 0.98, classes)))
