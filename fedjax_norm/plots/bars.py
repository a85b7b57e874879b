"""Bars side by side, as the figures of paper 004 compare runs."""

from collections.abc import Mapping, Sequence

import numpy as np
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
) -> Figure:
  """Groups of bars, one of each series in every group, with its value above.

  Args:
    groups: what the groups are called.
    series: what a bar of a group is called -> its height in each group, from 0 up; where that is
      NaN there is no bar, and a word stands in its place.
    title: one line.
    label: of the axis.
    form: how a value is written.
    missing: the word.

  Raises:
    ValueError: a series has not one value a group.
  """
  if any(len(values) != len(groups) for values in series.values()):
    raise ValueError(f"every series needs a value for each of the {len(groups)} groups.")
  width = 0.84 / max(len(series), 1)
  size = max(6.0, 1.5 + 0.55 * len(groups) * len(series)), 4.2
  figure, (axes,) = new_figure(title, size, 1)
  for i, (name, values) in enumerate(series.items()):
    places = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
    heights = np.asarray(values, np.float64)
    bars = axes.bar(
      places,
      np.nan_to_num(heights),
      width * 0.94,
      label=name,
      color=COLOURS[i % len(COLOURS)],
      hatch=_HATCHES[i % len(_HATCHES)],
      edgecolor="white",
    )
    told = [form.format(value) if np.isfinite(value) else missing for value in heights]
    axes.bar_label(bars, told, padding=2, fontsize=8)
  axes.set_xticks(range(len(groups)), groups)
  axes.set_xlabel("")
  axes.set_ylabel(label)
  axes.margins(y=0.1)
  axes.set_ylim(bottom=0)
  if len(series) > 1:
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series))
  return figure
