"""Plots of measures against the round: learning curves of one run, and a comparison of runs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from fedjax_norm.evaluation.measures import measures_of
from fedjax_norm.plots import base
from fedjax_norm.training.terminal.tables import human_seconds

_TIME = "simulated_seconds"


def learning_curves_figure(rows: base.Rows, title: str, phase_change: int | None = None) -> Figure:
  """Draws test accuracy and losses against the round, and accuracy against simulated time if known.

  Args:
    rows: the run's rows; missing columns are not drawn.
    title: title of one line.
    phase_change: round at which the norm's running statistics were frozen (marked), or None.
  """
  timed = _timed(rows)
  figure, (left, right, *more) = base.new_figure(title, (9.0 + 4.5 * timed, 3.8), 2 + timed)
  tested = measures_of({name for row in rows for name in row})
  accuracies = {name: measure.title for name, measure in tested.items() if measure.best_is_one}
  base.curves(left, rows, accuracies)
  for axes in more:
    base.curves(axes, rows, accuracies, _TIME)
    _accuracy_axis(axes, accuracies)
    _time_axis(axes)
  base.curves(right, rows, {"train_loss": "train", "loss": "test"})
  _accuracy_axis(left, accuracies)
  right.set_ylabel("loss")
  for axes in (left, right, *more):
    if phase_change is not None and axes not in more:
      axes.axvline(phase_change, color="0.45", linestyle=":", linewidth=1.2, zorder=1)
      text: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8, "color": "0.35"}
      text |= {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
      axes.annotate("freeze", (phase_change, 1.0), (0, 2), **text)
    if axes.get_legend_handles_labels()[0]:
      axes.legend(frameon=False, loc="best")
  return figure


def compare_figure(runs: Mapping[str, base.Rows], title: str, leaders: bool = True) -> Figure:
  """Draws the headline measure of several runs against the round, with names at the line ends.

  Runs differ in colour, line style and marker, so the plot is readable in grey. If all runs have
  simulated time, a second panel shows the measure against it. If rows have the standard deviation
  over seeds (the measure's column name plus ``_std``), the line has a band of that width on each
  side.

  Args:
    runs: name of a run -> its rows, in the order of the colours; all of one task.
    title: title of one line.
    leaders: whether thin lines connect the end of each line with the run's name; if runs end early,
      thin lines would cross the plot.
  """
  columns = {name for rows in runs.values() for row in rows for name in row}
  tested = measures_of(columns)
  column_of, title_of = next(((n, m.title) for n, m in tested.items()), ("top1", "top-1"))
  timed = all(map(_timed, runs.values()))
  longest = max(map(len, runs), default=0) + len(" ± 0.0%") * (f"{column_of}_std" in columns)
  names = 0.07 * max(0, longest - 20)  # inches for long names
  figure, panes = base.new_figure(title, (7.5 + 4.5 * timed + names, 4.5), 1 + timed)
  for axes, column in zip(panes, ("round", _TIME), strict=False):
    for i, (name, rows) in enumerate(runs.items()):
      x, values = base.column(rows, column_of, column)
      base.line(axes, x, values, name, i)
      _, deviations = base.column(rows, f"{column_of}_std", column)
      if deviations.size:
        low, high = values - deviations, np.minimum(values + deviations, 1)
        axes.fill_between(x, low, high, color=base.style(i)["color"], alpha=0.18, linewidth=0)
    _accuracy_axis(axes, tested)
  panes[0].set_ylabel("top-1 test accuracy" if title_of == "top-1" else title_of)
  if timed:
    _time_axis(panes[-1])
  _name_ends(panes[-1], runs, column_of, _TIME if timed else "round", leaders)
  return figure


def _name_ends(
  axes: Axes, runs: Mapping[str, base.Rows], measure: str, against: str, leaders: bool
) -> None:
  """Writes each run's name and last accuracy to the right of its line's end."""
  ends = []
  for i, (name, rows) in enumerate(runs.items()):
    x, values = base.column(rows, measure, against)
    finite = np.flatnonzero(np.isfinite(values))
    if finite.size:
      _, deviations = base.column(rows, f"{measure}_std", against)
      spread = f" ± {deviations[finite[-1]]:.1%}" if deviations.size else ""
      text = f"{name} {values[finite[-1]]:.1%}{spread}"
      ends.append((text, x[finite[-1]], values[finite[-1]], base.style(i)))
  gap = min(0.052, 1 / max(len(ends), 1))
  heights = _spread_out([value / 1.02 for _, _, value, _ in ends], gap)
  for (text, x, value, style), height in zip(ends, heights, strict=True):
    # A sample of the line next to the name identifies runs of one colour, or in grey.
    style = {**style, "clip_on": False, "markevery": [1], "label": "_sample"}
    axes.plot([1.05, 1.085, 1.12], [height] * 3, transform=axes.transAxes, **style)
    if leaders:
      arrow = {"arrowstyle": "-", "color": style["color"], "linewidth": 0.6, "alpha": 0.6}
      arrow |= {"shrinkA": 0, "shrinkB": 0}
      axes.annotate("", (x, value), (1.05, height), textcoords="axes fraction", arrowprops=arrow)
    axes.text(1.135, height, text, transform=axes.transAxes, fontsize=9, va="center")


def _timed(rows: base.Rows) -> bool:
  return bool(rows) and all(_TIME in row for row in rows)


def _accuracy_axis(axes: Axes, names: Collection[str]) -> None:
  axes.set_ylabel("R² on the test set" if "r2" in names else "test accuracy")
  axes.set_ylim(0, 1.02)
  axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _time_axis(axes: Axes) -> None:
  axes.set_xlabel("simulated time")
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.set_xlim(left=0)
  axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: human_seconds(s) if s > 0 else "0"))


def _spread_out(heights: Sequence[float], gap: float) -> list[float]:
  """Returns the nearest heights in 0..1 with the same order and at least ``gap`` between them."""
  order = np.argsort(heights, kind="stable")
  # (centre, members) of groups of names that touch and therefore move together.
  groups: list[tuple[float, int]] = []
  for i in order:
    groups.append((_inside(float(heights[i]), 1, gap), 1))
    while len(groups) > 1:
      (low, m), (high, n) = groups[-2:]
      if high - low >= gap * (m + n) / 2 - 1e-9:
        break
      # The mean over the members of the group centre that puts a member at its preferred height.
      centre = (m * (low + gap * n / 2) + n * (high - gap * m / 2)) / (m + n)
      groups[-2:] = [(_inside(centre, m + n, gap), m + n)]
  placed = [centre + gap * (j - (n - 1) / 2) for centre, n in groups for j in range(n)]
  result = np.empty(len(placed))
  result[order] = placed
  return result.tolist()


def _inside(centre: float, members: int, gap: float) -> float:
  half = gap * (members - 1) / 2
  return min(max(centre, half), 1 - half)
