"""Figures of the number of examples by class and region (paper 004, fig. 9-15)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from fedjax_norm.plots import base

# The largest number of names under the bars; of more bars only every n-th has a name.
_MOST_NAMES = 60
_NAME_LENGTH = 32
_MOST_REGIONS = 20


def amounts_figure(amounts: np.ndarray, names: Sequence[str], title: str) -> Figure:
  """Draws one bar per class, or per region, for its number of examples (fig. 9, 10, 13).

  `amounts` has n numbers, `names` n names; `title` is one line.
  """
  figure, axes = _figure(title, names, 3.6)
  axes.bar(np.arange(len(names)), amounts, width=0.8, color=base.COLOURS[0])
  axes.set_ylabel("examples")
  axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
  axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
  return figure


def share_figure(
  share: np.ndarray, class_names: Sequence[str], region_names: Sequence[str], title: str
) -> Figure:
  """Draws one bar per class, divided by the shares of the regions (fig. 11, 12, 14, 15).

  Of more than 20 regions, the 19 largest are drawn, and all others as one.

  Args:
    share: [R, C] shares from 0 to 1; those of a class sum to 1.
    class_names: C names.
    region_names: R names; the first region is at the bottom of the bars and of the legend.
    title: title of one line.
  """
  figure, axes = _figure(title, class_names, 4.6)
  share, region_names = _largest(share, region_names)
  bottoms = np.cumsum(share, axis=0) - share
  positions = np.arange(len(class_names))
  colours = base.category_colours(len(region_names))
  for name, heights, bottom, colour in zip(region_names, share, bottoms, colours, strict=True):
    axes.bar(positions, heights, 0.8, bottom, color=colour, label=name[:_NAME_LENGTH])
  axes.set_ylim(0, 1)
  axes.set_ylabel("share of the class's examples")
  axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  handles, labels = axes.get_legend_handles_labels()
  # A legend lists from the top, but bars stack from the bottom.
  figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False, fontsize=8)
  return figure


def _largest(share: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
  """Returns rows and names of the largest regions in their order, and one row of all others."""
  if len(names) <= _MOST_REGIONS:
    return share, list(names)
  by_size = np.argsort(-share.sum(1), kind="stable")
  shown, rest = np.sort(by_size[: _MOST_REGIONS - 1]), by_size[_MOST_REGIONS - 1 :]
  rows = np.concatenate([share[shown], share[rest].sum(0, keepdims=True)])
  return rows, [*(names[int(i)] for i in shown), f"{len(rest):,} others"]


def _figure(title: str, names: Sequence[str], height: float) -> tuple[Figure, Axes]:
  """Returns an empty figure that is wide enough for one bar per name."""
  shown = min(len(names), _MOST_NAMES)
  figure = Figure(figsize=(4.0 + 0.18 * shown, height), layout="constrained")
  figure.suptitle(title, fontsize=12)
  axes = figure.subplots()
  base.tidy(axes)
  ticks = range(0, len(names), -(-len(names) // _MOST_NAMES))
  labels = [str(names[t])[:_NAME_LENGTH] for t in ticks]
  axes.set_xticks(list(ticks), labels, rotation=90, fontsize=8)
  axes.set_xlim(-0.6, len(names) - 0.4)
  return figure, axes
