"""Grouped bars, as in the figures of paper 004."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_norm.plots.base import COLOURS, new_figure

_HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")


def bars_figure(
  groups: Sequence[str],
  series: Mapping[str, Sequence[float]],
  title: str,
  label: str,
  form: str = "{:.1f}",
  missing: str = "-",
  deviations: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
  """Draws groups of bars: one bar per series in every group, with the value above the bar.

  Args:
    groups: names of the groups.
    series: name of a series -> height of the bar in each group, at least 0; NaN draws no bar.
    title: title of one line.
    label: label of the y axis.
    form: format of the values above the bars.
    missing: text drawn instead of a NaN bar.
    deviations: name of a series -> half the length of the error bar in each group; NaN draws none.

  Raises:
    ValueError: the number of values of a series differs from the number of groups.
  """
  size = max(6.0, 1.5 + 0.55 * len(groups) * len(series)), 4.2
  figure, (axes,) = new_figure(title, size, 1)
  draw_bars(axes, groups, series, label, form, missing, deviations)
  return figure


def draw_bars(
  axes: Axes,
  groups: Sequence[str],
  series: Mapping[str, Sequence[float]],
  label: str,
  form: str = "{:.1f}",
  missing: str = "-",
  deviations: Mapping[str, Sequence[float]] | None = None,
) -> None:
  """Draws the bars of :func:`bars_figure`, with the same arguments, into a panel."""
  if any(len(values) != len(groups) for values in series.values()):
    raise ValueError(f"every series needs a value for each of the {len(groups)} groups.")
  width = 0.84 / max(len(series), 1)
  for i, (name, values) in enumerate(series.items()):
    positions = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
    heights = np.asarray(values, np.float64)
    style: dict[str, Any] = {"edgecolor": "white", "label": name}
    style |= {"color": COLOURS[i % len(COLOURS)], "hatch": _HATCHES[i % len(_HATCHES)]}
    if deviations:
      style["yerr"] = np.asarray(deviations[name], np.float64)
      style["error_kw"] = {"elinewidth": 0.8, "capsize": 2}
    bars = axes.bar(positions, np.nan_to_num(heights), width * 0.94, **style)
    labels = [form.format(value) if np.isfinite(value) else missing for value in heights]
    axes.bar_label(bars, labels, padding=2, fontsize=8)
  axes.set_xticks(range(len(groups)), groups)
  axes.set_xlabel("")
  axes.set_ylabel(label)
  axes.margins(y=0.1)
  axes.set_ylim(bottom=0)
  if len(series) > 1:
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series))
