"""Names to the right of a panel, at the heights of what they name, which do not overlap."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from fedjax_norm.plots import base


class Label(NamedTuple):
  """A name, and the point of the panel that it names.

  Attributes:
    text: the name.
    x: the point's position in data coordinates.
    y: the point's height in data coordinates.
    style: colour, line style and marker of the point or line, for a sample next to the name.
    weight: ``bold`` to emphasize the name.
  """

  text: str
  x: float
  y: float
  style: dict[str, Any]
  weight: str = "normal"


def beside(axes: Axes, labels: Sequence[Label], leaders: bool) -> None:
  """Writes the names to the right of a panel whose limits no longer change.

  ``leaders`` says whether thin lines connect the points with their names.
  """
  figure = axes.get_figure(root=True)
  assert figure is not None
  gap = min(0.234 / figure.get_figheight(), 1 / max(len(labels), 1))
  to_fraction = axes.transData + axes.transAxes.inverted()
  heights = [float(to_fraction.transform((label.x, label.y))[1]) for label in labels]
  for (text, x, y, style, weight), height in zip(labels, spread_out(heights, gap), strict=True):
    # A sample of the line next to the name identifies runs of one colour, or in grey.
    style = {**style, "clip_on": False, "markevery": [1], "label": "_sample"}
    axes.plot([1.05, 1.085, 1.12], [height] * 3, transform=axes.transAxes, **style)
    if leaders:
      arrow = {"arrowstyle": "-", "color": style["color"], "linewidth": 0.6, "alpha": 0.6}
      arrow |= {"shrinkA": 0, "shrinkB": 0}
      axes.annotate("", (x, y), (1.05, height), textcoords="axes fraction", arrowprops=arrow)
    font: dict[str, Any] = {"fontsize": 9, "va": "center", "weight": weight}
    axes.text(1.135, height, base.plain(text), transform=axes.transAxes, **font)


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
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
