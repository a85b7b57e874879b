"""Figures of the differences between clients in several runs (paper 004, fig. 4, 16, 17, 21-24)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

from fedjax_norm.evaluation.measures import Measure, measures_of
from fedjax_norm.plots import base, diagnostics
from fedjax_norm.plots.bars import draw_bars

Runs = Mapping[str, base.Rows]
"""Name of a run -> rows of a quantity, as ``study.results.client_differences`` returns them."""

# The greatest divergence that is drawn; where the mean over partitions is near 0, it is huge.
_MOST = 2.0
_MOST_BARS = 12  # of blocks of classes; more are drawn as a table
_LABELS = {
  "mean_divergence": "divergence of minibatch means",
  "variance_divergence": "divergence of minibatch variances",
  "accuracy_on_blocks": "test accuracy",
  "gradient_deviation": "deviation of the clients' mean gradient\n(median and range of layers)",
  "residual_update_delta": "unsent update / weight",
  "local_update_delta": "local update / weight",
  "weight_difference": "difference of weights",
  "neuron_difference": "difference of neurons",
  "accuracy_loss": "accuracy lost on other clients' data",
  "top1": "test accuracy",  # or, of a verification, the share of pairs that are right
}


def differences_figure(quantity: str, panels: Mapping[str, Runs], title: str) -> Figure:
  """Draws a quantity of all runs, with a panel for each group of runs and one scale for all.

  Quantities of channels (fig. 4) are drawn as bars, those of blocks of classes (fig. 21) as bars
  or, if there are many, as a table, others as curves against epochs, if the rows have them, or
  training images (fig. 16, 17, 22, 23, 24): the mean over seeds with its deviation or, of layers,
  their median with the range.

  Args:
    quantity: name of the quantity.
    panels: title of a panel, or an empty text -> its runs.
    title: title of one line.
  """
  measured = measures_of({quantity}).get(quantity)
  measure = measured or Measure(quantity)
  every = [row for runs in panels.values() for rows in runs.values() for row in rows]
  places = {row["place"] for row in every}
  of_channels, of_blocks = (any(mark in place for place in places) for mark in (":", " on "))
  if of_blocks and max(_cells(runs) for runs in panels.values()) > _MOST_BARS:
    return _tables_figure(panels, title)
  of_layers = quantity == "gradient_deviation"
  bars = len(places) * max(map(len, panels.values())) if of_channels else 0
  width = max(6.4 if len(panels) == 1 else 4.6, 0.2 * bars)
  figure, panes = base.new_figure(title, (width * len(panels), 4.2), len(panels))
  for axes, (name, runs) in zip(panes, panels.items(), strict=True):
    axes.set_title(base.shortened(name), fontsize=10, loc="right")
    if of_channels:
      _draw_channels(axes, runs)
    elif of_blocks:
      _draw_blocks(axes, runs)
    else:
      _draw_curves(axes, runs, of_layers)
    axes.set_ylabel(_LABELS.get(quantity) or base.test_label(measure))
    if measure.form.endswith("%") and not of_layers:
      axes.yaxis.set_major_formatter(PercentFormatter(1.0))
  if of_layers and any(row["value"] > 0 for row in every):
    positive = [row["value"] for row in every if row["value"] > 0]
    bounds = min(positive) / 2, max(positive) * 2
    for axes in panes:  # the deviation falls by orders of magnitude when FixBN freezes
      axes.set_ylim(*bounds)
      base.log_values(axes, FuncFormatter(lambda value, _: f"{value:g}"))
    return figure
  top = max(axes.get_ylim()[1] for axes in panes)
  if of_blocks or (measured and measured.best_is_one):
    top = 1.08 if of_blocks else 1.02
  low = min([0.0, *(1.05 * row["value"] for row in every if np.isfinite(row["value"]))])
  for axes in panes:
    axes.set_ylim(low, max(top, 1e-3))
  return figure


def _draw_channels(axes: Axes, runs: Runs) -> None:
  """Draws a bar for each run and channel of a layer."""
  values = {
    name: {str(row["place"]).rpartition(":")[2]: row["value"] for row in rows}
    for name, rows in runs.items()
  }
  places = list(dict.fromkeys(place for of in values.values() for place in of))
  series = {
    name: [min(of.get(place, np.nan), _MOST) for place in places] for name, of in values.items()
  }
  draw_bars(axes, places, series, "", form="", missing="")
  layers = {str(row["place"]).rpartition(":")[0] for rows in runs.values() for row in rows}
  cut = sum(value > _MOST for of in values.values() for value in of.values())
  note = f" ({cut} cut at {_MOST:.0%})" if cut else ""
  axes.set_xlabel(f"channel of {' or '.join(sorted(layers))}{note}")


def _by_block(runs: Runs) -> dict[tuple[str, str], dict[str, float]]:
  """Returns (run, model) -> block of classes -> accuracy."""
  found: dict[tuple[str, str], dict[str, float]] = {}
  for name, rows in runs.items():
    for row in rows:
      model, _, block = str(row["place"]).partition(" on ")
      found.setdefault((name, model), {})[block] = row["value"]
  return found


def _cells(runs: Runs) -> int:
  return sum(map(len, _by_block(runs).values()))


def _draw_blocks(axes: Axes, runs: Runs) -> None:
  """Draws a group of bars for each run and model, with a bar for each block of classes."""
  found = _by_block(runs)
  blocks = dict.fromkeys(block for of in found.values() for block in of)
  series = {f"classes {b}": [of.get(b, np.nan) for of in found.values()] for b in blocks}
  labels = [f"{base.shortened(name, 20)}\nmodel {model}" for name, model in found]
  draw_bars(axes, labels, series, "", form="{:.0%}")


def _tables_figure(panels: Mapping[str, Runs], title: str) -> Figure:
  """Draws a table for each panel: the models of all runs in rows, the blocks of classes in columns.

  A block of one class is written as this class.
  """
  tables = [_by_block(runs) for runs in panels.values()]
  blocks = list(dict.fromkeys(b for table in tables for of in table.values() for b in of))
  columns = [low if (low := b.partition("-")[0]) == b.partition("-")[2] else b for b in blocks]
  size = (3.0 + 0.45 * len(blocks)) * len(tables), 1.6 + 0.26 * max(map(len, tables))
  figure, panes = base.new_figure(title, size, len(tables))
  for axes, name, table in zip(panes, panels, tables, strict=True):
    rows = [f"{base.shortened(run, 24)}, model {model}" for run, model in table]
    shares = [[of.get(block, np.nan) for block in blocks] for of in table.values()]
    diagnostics.draw_table(axes, rows, columns, shares)
    axes.set_title(base.shortened(name), fontsize=10, loc="right")
    axes.set_xlabel("classes (test accuracy in %)")
  return figure


def _draw_curves(axes: Axes, runs: Runs, of_layers: bool) -> None:
  """Draws a line for each run, with a band: a deviation on each side, or the range of layers."""
  against = "epoch" if all("epoch" in row for rows in runs.values() for row in rows) else "images"
  for i, (name, rows) in enumerate(runs.items()):
    x, values = base.column(rows, "value", against)
    std = np.nan_to_num(base.column(rows, "std", against)[1])
    low, high = values - std, values + std
    if of_layers:
      x, index = np.unique(x, return_inverse=True)
      by_round = [values[index == k] for k in range(len(x))]
      low, values, high = np.array([np.quantile(of, (0, 0.5, 1)) for of in by_round]).T
    base.line(axes, x, values, base.shortened(name), i)
    axes.fill_between(x, low, high, color=base.style(i)["color"], alpha=0.18)
  axes.set_xlabel("epoch" if against == "epoch" else "training images seen")
  if against == "images":
    axes.xaxis.set_major_formatter(EngFormatter())
  axes.legend(frameon=False, fontsize=8)
