"""Figures of a study: score against communication, shares as a table of colours, learning rates."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, PercentFormatter

from fedjax_norm.evaluation.measures import Measure
from fedjax_norm.plots import base, side_labels

_MOST_COLUMNS = 24
_COLOURS_WIDTH, _COLUMN_WIDTH = 3.2, 0.52  # inches, at least
_LONGEST_NAMES = 44


class Point(NamedTuple):
  """What a contender sends, and its score.

  Attributes:
    name: the contender.
    sent: bytes up and down, of all clients.
    score: mean over seeds of its score.
    deviation: standard deviation over seeds; NaN if there is one seed.
    efficient: whether it is on the Pareto front: no other one is better and sends no more.
  """

  name: str
  sent: float
  score: float
  deviation: float
  efficient: bool


class Search(NamedTuple):
  """The search for a contender's learning rate.

  Attributes:
    name: the contender.
    trials: (rate, local steps, value or None if the run diverged) of each trial.
    chosen: the chosen rate.
    runner_up: the second best rate, or None.
  """

  name: str
  trials: Sequence[tuple[float, int, float | None]]
  chosen: float
  runner_up: float | None


def pareto_figure(points: Sequence[Point], title: str, measure: Measure, named: int) -> Figure:
  """Draws the contenders' scores against what they send, and the Pareto front.

  Args:
    points: the contenders in the order of their styles, those that are named first.
    title: title of one line.
    measure: the measure of the score.
    named: number of contenders that are named; the others are grey.
  """
  longest = min(_LONGEST_NAMES, max((len(point.name) for point in points[:named]), default=0))
  size = (7.2 + 0.07 * longest, max(4.8, 0.25 * min(named, len(points)) + 1))
  figure, (axes,) = base.new_figure(title, size, 1)
  for i, point in enumerate(points):
    style = base.style(i) if i < named else {"color": "0.75", "marker": "o", "markersize": 3.5}
    style |= {"linestyle": "none", "elinewidth": 1, "capsize": 3, "zorder": 3 if i < named else 2}
    if point.efficient:
      style |= {"markersize": 8, "markeredgecolor": "black", "markeredgewidth": 1.2}
    axes.errorbar(point.sent, point.score, np.nan_to_num(point.deviation) or None, **style)
  front = sorted((point.sent, point.score) for point in points if point.efficient)
  if front:
    front_x, front_y = zip(*front, strict=True)
    line: dict[str, Any] = {
      "color": "0.45",
      "linewidth": 1,
      "linestyle": ":",
      "label": "Pareto front",
    }
    axes.plot(front_x, front_y, drawstyle="steps-post", zorder=1, **line)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
  axes.margins(0.08)
  base.bytes_axis(axes)
  axes.set_ylabel(base.test_label(measure))
  if measure.form.endswith("%"):
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(*np.clip(axes.get_ylim(), 0, 1.01))
  labels = [
    side_labels.Label(
      _shortened(point.name),
      point.sent,
      point.score,
      base.style(i),
      "bold" if point.efficient else "normal",
    )
    for i, point in enumerate(points[:named])
  ]
  side_labels.beside(axes, labels, leaders=True)
  return figure


def shares_figure(
  rows: Sequence[str],
  columns: Sequence[str],
  values: np.ndarray,
  title: str,
  label: str,
  marked: Collection[int] = (),
) -> Figure:
  """Draws shares of rows and columns: as colours with numbers, or as dots of many columns.

  The lowest share of each row has a black frame; of dots, the lowest one is named.

  Args:
    rows: R names, such as those of the contenders; the first one is at the top.
    columns: C names, such as those of the clients.
    values: [R, C] shares from 0 to 1, or NaN where there is none.
    title: title of one line.
    label: what the shares are, with the unit percent.
    marked: indices of columns whose names are set in italics, and whose dots have another colour.
  """
  values = np.asarray(values, np.float64).reshape(len(rows), len(columns))
  few = len(columns) <= _MOST_COLUMNS
  names = 0.075 * min(_LONGEST_NAMES, max(map(len, rows)))
  width = names + (max(_COLOURS_WIDTH, _COLUMN_WIDTH * len(columns)) if few else 6.5)
  turned = 0 if not few or _fits(columns) else 0.06 * max(len(base.shortened(c)) for c in columns)
  figure = Figure(figsize=(width, 1.6 + 0.3 * len(rows) + turned), layout="constrained")
  figure.suptitle(title, fontsize=12)
  axes = figure.subplots()
  (_draw_colours if few else _draw_dots)(axes, columns, values, frozenset(marked))
  axes.set_yticks(range(len(rows)), list(map(_shortened, rows)), fontsize=9)
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.set_title(label, fontsize=10, loc="left")
  return figure


def _shortened(name: str) -> str:
  """Returns the name of a contender, which has room for its norm, algorithm and local steps."""
  return base.shortened(name, _LONGEST_NAMES)


def _fits(columns: Sequence[str]) -> bool:
  """Returns whether the names of columns fit side by side."""
  return 0.09 * max(map(len, columns)) < max(_COLOURS_WIDTH / len(columns), _COLUMN_WIDTH)


def _draw_colours(
  axes: Axes, columns: Sequence[str], values: np.ndarray, marked: frozenset[int]
) -> None:
  axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)
  for (i, j), value in np.ndenumerate(values):
    text = f"{100 * value:.0f}" if np.isfinite(value) else "-"
    colour = "white" if value <= 0.5 else "black"  # a NaN cell has no fill, so its text is black
    axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    if values.shape[1] > 1 and value == np.fmin.reduce(values[i]) < np.fmax.reduce(values[i]):
      frame: dict[str, Any] = {"fill": False, "edgecolor": base.COLOURS[1], "linewidth": 2}
      axes.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, **frame))
  turned: dict[str, Any] = {} if _fits(columns) else {"rotation": 40, "ha": "right"}
  axes.set_xticks(range(len(columns)), list(map(base.shortened, columns)), fontsize=9, **turned)
  for j in marked:
    axes.get_xticklabels()[j].set_fontstyle("italic")


def _draw_dots(
  axes: Axes, columns: Sequence[str], values: np.ndarray, marked: frozenset[int]
) -> None:
  base.tidy(axes)
  for i, row in enumerate(values):
    found = np.flatnonzero(np.isfinite(row))
    colours = [base.COLOURS[3 if j in marked else 0] for j in found]
    axes.scatter(row[found], np.full(found.size, i), marker="|", c=colours, alpha=0.6)
    if found.size:
      axes.plot(np.mean(row[found]), i, "D", color="black", markersize=4)
      worst = found[np.argmin(row[found])]
      axes.plot(row[worst], i, "o", color=base.COLOURS[1], markersize=5)
      place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center"}
      axes.annotate(
        base.shortened(columns[worst], 20), (row[worst], i), (-6, 0), fontsize=8, **place
      )
  axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  lowest = float(np.nanmin(values, initial=0.95))
  axes.set_xlim(lowest - 0.35 * (1.02 - lowest), 1.02)  # with room for the lowest one's name
  axes.set_xticks([tick for tick in axes.get_xticks() if tick >= 0])
  axes.set_xlim(lowest - 0.35 * (1.02 - lowest), 1.02)


def search_figure(searches: Sequence[Search], title: str, measure: Measure) -> Figure:
  """Draws one panel for each contender: the value of each trial against its learning rate.

  Lines connect the trials of equal length, the longer the darker. The chosen rate has a filled
  star, the runner-up a ring, a rate that diverged a cross at the bottom.

  Args:
    searches: the searches, in order.
    title: title of one line.
    measure: the measure of the values, on the validation examples.
  """
  columns = min(4, len(searches))
  lines = -(-len(searches) // columns)
  size = (max(4.2, 3.1 * columns), 0.9 + 1.9 * lines)
  figure = Figure(figsize=size, layout="constrained")
  figure.suptitle(title, fontsize=12)
  figure.supylabel(f"validation, {measure.title}", fontsize=10)
  figure.supxlabel("learning rate", fontsize=10)
  panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
  for axes, search in zip(panels, searches, strict=False):
    base.tidy(axes)
    axes.set_title(base.shortened(search.name, 40), fontsize=8, loc="left")
    _draw_search(axes, search)
    if measure.form.endswith("%"):
      axes.yaxis.set_major_formatter(PercentFormatter(1.0))
  for axes in panels[: len(searches)]:  # the panels share one x axis, which needs all data
    base.log_axis(axes, FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.tick_params(labelsize=8)
  for axes in panels[len(searches) :]:
    axes.set_visible(False)
  return figure


def _draw_search(axes: Axes, search: Search) -> None:
  lengths = sorted({steps for _, steps, _ in search.trials})
  bottom = axes.get_xaxis_transform()
  for i, length in enumerate(lengths):
    trials = [(lr, value) for lr, steps, value in search.trials if steps == length]
    found = np.array(sorted((lr, v) for lr, v in trials if v is not None)).reshape(-1, 2)
    shade = str(0.7 * (1 - (i + 1) / len(lengths)))
    axes.plot(*found.T, ".-", color=shade, linewidth=1, markersize=5)
    lost = [lr for lr, value in trials if value is None]
    if lost:
      axes.plot(lost, [0.06] * len(lost), "x", color=base.COLOURS[1], transform=bottom)
  for lr, marker in ((search.chosen, "*"), (search.runner_up, "o")):
    values = [v for rate, _, v in search.trials if rate == lr and v is not None]
    if lr is not None and values:
      face = base.COLOURS[0] if marker == "*" else "none"
      axes.plot(lr, values[-1], marker, color=base.COLOURS[0], markersize=10, markerfacecolor=face)
