"""Plots of measures against the round: learning curves of one run, and a comparison of runs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from fedjax_norm.evaluation.measures import MEASURES, Measure, measures_of
from fedjax_norm.plots import base, side_labels
from fedjax_norm.training.terminal.tables import human_seconds

_TIME = "simulated_seconds"


def learning_curves_figure(rows: base.Rows, title: str, phase_change: int | None = None) -> Figure:
  """Draws test accuracy and losses against the round, and accuracy against simulated time if known.

  Args:
    rows: the run's rows; missing columns are not drawn.
    title: title of one line.
    phase_change: round at which the norm's running statistics were frozen (marked), or None.
  """
  timed = _has(rows, _TIME)
  figure, (left, right, *more) = base.new_figure(title, (9.0 + 4.5 * timed, 3.8), 2 + timed)
  tested = measures_of({name for row in rows for name in row})
  accuracies = {name: m.title for name, m in tested.items() if m.best_is_one and m.main}
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
      axes.axvline(phase_change, **base.FREEZE_LINE)
      text: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8, "color": "0.35"}
      text |= {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
      axes.annotate("freeze", (phase_change, 1.0), (0, 2), **text)
    if axes.get_legend_handles_labels()[0]:
      axes.legend(frameon=False, loc="best")
  return figure


def compare_figure(
  runs: Mapping[str, base.Rows],
  title: str,
  leaders: bool = True,
  measure: str | None = None,
  against: Sequence[str] = ("round", _TIME),
  named: int | None = None,
) -> Figure:
  """Draws a measure of several runs against the round and more, with names at the line ends.

  Runs differ in colour, line style and marker, so the plot is readable in grey. If rows have the
  standard deviation over seeds (the measure's column name plus ``_std``), the line has a band of
  that width on each side.

  Args:
    runs: name of a run -> its rows, in the order of the colours; all of one task.
    title: title of one line.
    leaders: whether thin lines connect the end of each line with the run's name; if runs end early,
      thin lines would cross the plot.
    measure: column of the measure; the headline measure by default.
    against: columns of the x axes, one for each panel; only those that all rows have are drawn.
    named: number of runs that are named; the others are thin grey lines. None names all.
  """
  columns = {name for rows in runs.values() for row in rows for name in row}
  tested = measures_of(columns)
  column_of = measure or next(iter(tested), "top1")
  what = tested.get(column_of) or MEASURES.get(column_of) or Measure(column_of)
  shown = [x for x in against if x == "round" or all(_has(rows, x) for rows in runs.values())]
  names = list(runs)[:named]
  longest = max(map(len, names), default=0) + len(" ± 0.0%") * (f"{column_of}_std" in columns)
  extra = 0.07 * max(0, longest - 20)  # inches for long names
  size = (3.0 + 4.5 * len(shown) + extra, max(4.5, 0.25 * len(names) + 1))
  figure, panes = base.new_figure(title, size, len(shown))
  for axes, column in zip(panes, shown, strict=True):
    for i, (name, rows) in enumerate(runs.items()):
      x, values = base.column(rows, column_of, column)
      if name not in names:
        axes.plot(x, values, color="0.8", linewidth=0.8, zorder=1)
        continue
      base.line(axes, x, values, name, i)
      _, deviations = base.column(rows, f"{column_of}_std", column)
      if deviations.size:
        low, high = values - deviations, values + deviations
        high = np.minimum(high, 1) if what.best_is_one else high
        axes.fill_between(x, low, high, color=base.style(i)["color"], alpha=0.18, linewidth=0)
    if what.best_is_one:
      _accuracy_axis(axes, tested)
    axes.set_ylabel(base.test_label(what))
    if column == _TIME:
      _time_axis(axes)
    elif column == "bytes":
      base.bytes_axis(axes)
  form = ".1%" if what.form.endswith("%") else what.form
  ends = [_end(name, runs[name], column_of, shown[-1], form) for name in names]
  labels = [end._replace(style=base.style(i)) for i, end in enumerate(ends) if end]
  side_labels.beside(panes[-1], labels, leaders)
  return figure


def _end(
  name: str, rows: base.Rows, measure: str, against: str, form: str
) -> side_labels.Label | None:
  """Returns a run's name and last value, for the end of its line; None if it has no value."""
  x, values = base.column(rows, measure, against)
  finite = np.flatnonzero(np.isfinite(values))
  if not finite.size:
    return None
  _, deviations = base.column(rows, f"{measure}_std", against)
  last = finite[-1]
  spread = f" ± {deviations[last]:{form}}" if deviations.size else ""
  return side_labels.Label(f"{name} {values[last]:{form}}{spread}", x[last], values[last], {})


def _has(rows: base.Rows, column: str) -> bool:
  return bool(rows) and all(column in row for row in rows)


def _accuracy_axis(axes: Axes, names: Collection[str]) -> None:
  axes.set_ylabel("R² on the test set" if "r2" in names else "test accuracy")
  axes.set_ylim(0, 1.02)
  axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _time_axis(axes: Axes) -> None:
  axes.set_xlabel("simulated time")
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.set_xlim(left=0)
  axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: human_seconds(s) if s > 0 else "0"))
