"""Plots a run's diagnostics, with one panel for each kind of recorded measure."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_norm.plots.base import COLOURS, FREEZE_LINE, Rows, curves, log_values, new_figure, save

_DELTAS = {
  "residual_update_delta": "unsent residual / weight",
  "local_update_delta": "local change / weight",
  "weight_difference": "weights between clients",
  "neuron_difference": "neurons between clients",
}
# Above 2 the values of two clients have opposite signs, and the divergence only shows how near 0
# the mean of the two is.
_CUT = 2.0
_LAYERS = 6  # layers with a line of gradients
# Arguments of legends above the panel, because no position inside is free in every run.
_ABOVE: dict[str, Any] = {
  "frameon": False,
  "loc": "lower left",
  "bbox_to_anchor": (0, 1),
  "borderaxespad": 0.1,
  "fontsize": 8,
}


def diagnostics(
  rows: Rows, metrics: Rows, path: str | os.PathLike, title: str, frozen_at: int | None = None
) -> None:
  """Saves ``diagnostics_figure`` as the file ``path``, unless there is nothing to draw."""
  if rows or _losses(metrics):
    save(diagnostics_figure(rows, metrics, title, frozen_at), path)


def diagnostics_figure(
  rows: Rows, metrics: Rows, title: str, frozen_at: int | None = None
) -> Figure:
  """Draws a panel for each recorded measure of ``evaluation/diagnostics.py`` (paper 004).

  The divergences by channel (fig. 4) and the accuracy of each client's model on the classes of each
  client (fig. 21) are those of the last evaluation. The relative updates and differences (fig. 22,
  23, app. G), the deviation of gradients by layer (paper 002) and the accuracy loss (fig. 24) are
  drawn against the round, with a line at round ``frozen_at``, where FixBN froze its statistics.
  ``rows`` are those of ``diagnostics.csv``, ``metrics`` those of ``metrics.csv``, with the column
  ``accuracy_loss``.
  """
  last = [row for row in rows if row["round"] == rows[-1]["round"]]
  bars = {kind: _by_place(last, f"{kind}_divergence") for kind in ("mean", "variance")}
  deltas = [{"round": row["round"], row["quantity"]: row["value"]} for row in rows]
  deltas = [row for row in deltas if row.keys() & _DELTAS.keys()]
  accuracies, losses = _by_place(last, "accuracy"), _losses(metrics)
  gradients = [row for row in rows if row["quantity"] == "gradient_deviation"]
  draw = []
  if bars["mean"]:
    draw.append(lambda axes: _draw_divergence(axes, bars))
  if deltas:
    draw.append(lambda axes: _draw_deltas(axes, deltas, frozen_at))
  if gradients:
    draw.append(lambda axes: _draw_gradients(axes, gradients, frozen_at))
  if accuracies:
    draw.append(lambda axes: _draw_accuracies(axes, accuracies))
  if losses:
    draw.append(lambda axes: _draw_losses(axes, losses))
  figure, panes = new_figure(title, (max(4.4 * len(draw), 6.4), 4.2), len(draw))
  for one, axes in zip(draw, panes, strict=True):
    one(axes)
  return figure


def _by_place(rows: Rows, quantity: str) -> dict[str, float]:
  return {str(row["place"]): row["value"] for row in rows if row["quantity"] == quantity}


def _losses(metrics: Rows) -> list[Mapping[str, Any]]:
  return [row for row in metrics if "accuracy_loss" in row]


def _draw_divergence(axes: Axes, bars: Mapping[str, Mapping[str, float]]) -> None:
  """Draws a pair of bars per channel, cut at ``_CUT`` because means near 0 give huge values."""
  values = np.array([list(of.values()) for of in bars.values()])
  layer = next(iter(bars["mean"])).rpartition(":")[0]
  channels = values.shape[1]
  for i, (name, row) in enumerate(zip(bars, values, strict=True)):
    x = np.arange(channels) + 0.4 * (i - 0.5)
    label = f"minibatch {name} (median {np.median(row):.0%})"
    axes.bar(x, np.minimum(row, _CUT), 0.4, color=COLOURS[i], label=label)
  cut = int((values > _CUT).sum())
  axes.set_xlabel(f"channel of {layer}" + (f" (cut at {_CUT:.0%}: {cut})" if cut else ""))
  axes.set_ylabel("divergence of the norm's input")
  axes.set_ylim(0, max(1e-3, 1.04 * np.minimum(values, _CUT).max()))
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
  axes.legend(**_ABOVE)


def _draw_deltas(axes: Axes, rows: Rows, frozen_at: int | None) -> None:
  present = {name: label for name, label in _DELTAS.items() if any(name in row for row in rows)}
  curves(axes, rows, present)
  _mark_freeze(axes, frozen_at)
  axes.set_ylabel("relative difference")
  if any(row[name] > 0 for row in rows for name in present if name in row):
    log_values(axes, ticker.FuncFormatter(lambda value, _: f"{100 * value:g}%"))
  axes.legend(ncols=2, **_ABOVE)


def _draw_gradients(axes: Axes, rows: Rows, frozen_at: int | None) -> None:
  """Draws a line for each layer, or for ``_LAYERS`` of them from the first to the last."""
  layers = list(dict.fromkeys(str(row["place"]) for row in rows))
  chosen = np.unique(np.linspace(0, len(layers) - 1, _LAYERS).round().astype(int))
  names = {layers[i]: layers[i] for i in chosen}
  curves(axes, [{"round": row["round"], str(row["place"]): row["value"]} for row in rows], names)
  _mark_freeze(axes, frozen_at)
  axes.set_ylabel("deviation of the mean gradient")
  if any(row["value"] > 0 for row in rows):
    log_values(axes, ticker.FuncFormatter(lambda value, _: f"{value:g}"))
  axes.legend(ncols=2, **_ABOVE)


def _mark_freeze(axes: Axes, frozen_at: int | None) -> None:
  if frozen_at is not None:
    axes.axvline(frozen_at, label="freeze", **FREEZE_LINE)


def _draw_accuracies(axes: Axes, accuracies: Mapping[str, float]) -> None:
  """Draws a coloured table: the client of the model (rows), the client of the classes (columns)."""
  models = list(dict.fromkeys(place.split(" on ")[0] for place in accuracies))
  classes = list(dict.fromkeys(place.split(" on ")[1] for place in accuracies))
  draw_table(axes, models, classes, [[accuracies[f"{i} on {j}"] for j in classes] for i in models])
  axes.set_xlabel("classes of client")
  axes.set_ylabel("model of client" if len(models) > 1 else "model")
  axes.set_title("test accuracy (%)", fontsize=10, loc="left")


def draw_table(
  axes: Axes, rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[float]]
) -> None:
  """Draws a table of percentages, coloured by their values; ``shares`` are [rows, columns]."""
  table = np.array(shares)
  axes.imshow(table, vmin=0, vmax=1, cmap="cividis", aspect="auto")
  for (i, j), value in np.ndenumerate(table):
    text = f"{100 * value:.0f}" if np.isfinite(value) else "-"
    colour = "white" if value <= 0.5 else "black"  # a NaN cell has no fill, so its text is black
    axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
  axes.grid(False)
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)
  axes.set_xticks(range(len(columns)), columns)
  axes.set_yticks(range(len(rows)), rows)


def _draw_losses(axes: Axes, metrics: Rows) -> None:
  curves(axes, metrics, {"accuracy_loss": "accuracy loss"})
  axes.set_title("training accuracy lost by model traveling", fontsize=10, loc="left")
  axes.set_ylabel("accuracy loss")
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
  axes.yaxis.set_major_locator(ticker.MaxNLocator(6))
