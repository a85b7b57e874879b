"""Figures of the differences between clients in several runs (paper 004, fig. 4, 16, 17, 21-24)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from fedjax_norm.evaluation.measures import Measure, measures_of
from fedjax_norm.plots import base
from fedjax_norm.plots.bars import draw_bars

Runs = Mapping[str, base.Rows]
"""Name of a run -> rows of a quantity, as ``study.results.client_differences`` returns them."""

# The greatest divergence that is drawn; where the mean over partitions is near 0, it is huge.
_MOST = 2.0
_LABELS = {
  "mean_divergence": "divergence of minibatch means",
  "variance_divergence": "divergence of minibatch variances",
  "accuracy_on_blocks": "test accuracy",
  "gradient_deviation": "deviation of the clients' mean gradient",
  "residual_update_delta": "unsent update / weight",
  "local_update_delta": "local update / weight",
  "weight_difference": "difference of weights",
  "neuron_difference": "difference of neurons",
  "accuracy_loss": "accuracy lost on other clients' data",
  "top1": "test accuracy",  # or, of a verification, the share of pairs that are right
}


def differences_figure(quantity: str, panels: Mapping[str, Runs], title: str) -> Figure:
  """Draws a quantity of all runs, with a panel for each group of runs and one scale for all.

  Quantities of channels (fig. 4), layers and blocks of classes (fig. 21) are drawn as bars, others
  as curves against epochs, if the rows have them, or training images (fig. 16, 17, 22, 23, 24).

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
  of_layers = quantity == "gradient_deviation"
  bars = len(places) * max(map(len, panels.values())) if of_channels or of_layers else 0
  width = max(6.4 if len(panels) == 1 else 4.6, 0.2 * bars)
  figure, panes = base.new_figure(title, (width * len(panels), 4.2), len(panels))
  for axes, (name, runs) in zip(panes, panels.items(), strict=True):
    axes.set_title(base.shortened(name), fontsize=10, loc="right")
    if of_channels or of_layers:
      _draw_places(axes, runs)
    elif of_blocks:
      _draw_blocks(axes, runs)
    else:
      _draw_curves(axes, runs)
    axes.set_ylabel(_LABELS.get(quantity) or base.test_label(measure))
    if measure.form.endswith("%"):
      axes.yaxis.set_major_formatter(PercentFormatter(1.0))
  top = max(axes.get_ylim()[1] for axes in panes)
  if of_blocks or (measured and measured.best_is_one):
    top = 1.08 if of_blocks else 1.02
  low = min([0.0, *(1.05 * row["value"] for row in every if np.isfinite(row["value"]))])
  for axes in panes:
    axes.set_ylim(low, max(top, 1e-3))
  return figure


def _draw_places(axes: Axes, runs: Runs) -> None:
  """Draws a bar for each run and channel of a layer, or for each run and layer."""
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
  of = f"channel of {' or '.join(sorted(layers))}" if any(layers) else "layer"
  axes.set_xlabel(f"{of}{note}")
  if not any(layers):
    axes.tick_params("x", rotation=90)


def _draw_blocks(axes: Axes, runs: Runs) -> None:
  """Draws a group of bars for each run and model, with a bar for each block of classes."""
  values = {
    (name, model, block): row["value"]
    for name, rows in runs.items()
    for row in rows
    for model, _, block in [str(row["place"]).partition(" on ")]
  }
  groups = list(dict.fromkeys(key[:2] for key in values))
  blocks = dict.fromkeys(block for *_, block in values)
  series = {
    f"classes {block}": [values.get((*group, block), np.nan) for group in groups]
    for block in blocks
  }
  labels = [f"{base.shortened(name, 20)}\nmodel {model}" for name, model in groups]
  draw_bars(axes, labels, series, "", form="{:.0%}")


def _draw_curves(axes: Axes, runs: Runs) -> None:
  """Draws a line for each run, with a band of a standard deviation on each side."""
  against = "epoch" if all("epoch" in row for rows in runs.values() for row in rows) else "images"
  for i, (name, rows) in enumerate(runs.items()):
    x, values = base.column(rows, "value", against)
    base.line(axes, x, values, base.shortened(name), i)
    std = np.nan_to_num(base.column(rows, "std", against)[1])
    axes.fill_between(x, values - std, values + std, color=base.style(i)["color"], alpha=0.18)
  axes.set_xlabel("epoch" if against == "epoch" else "training images seen")
  if against == "images":
    axes.xaxis.set_major_formatter(EngFormatter())
  axes.legend(frameon=False, fontsize=8)
