"""Plot of a confusion matrix: which classes a model takes for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedjax_norm.plots import base


def confusion_figure(counts: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
  """Draws the share of each class's test examples that a model predicts as each class.

  With up to 20 classes, each cell has its count and each class its name; otherwise some classes
  have theirs.

  Args:
    counts: [C, C] ints, number of examples by true class (rows) and predicted class (columns).
    class_names: C names.
    title: title of one line.

  Raises:
    ValueError: the counts are not square, or there is not one name per class.
  """
  counts = np.asarray(counts)
  classes = len(class_names)
  if counts.shape != (classes, classes):
    raise ValueError(f"The counts have the shape {counts.shape}; expected {(classes, classes)}.")
  named = classes <= base.MOST_NAMED
  names = [base.shortened(str(name), 20) for name in class_names]
  side = 2.2 + (0.45 * classes if named else 4.5)
  figure, (axes,) = base.new_figure(title, (side + 1.6, side), 1)
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
  ticks = np.arange(0, classes, 1 if named else -(-classes // 20))
  labels = [names[t] for t in ticks]
  upright = max(map(len, labels)) > 3
  axes.set_xticks(ticks, labels, rotation=90 if upright else 0, fontsize=8)
  axes.set_yticks(ticks, labels, fontsize=8)
  axes.set_xlabel("predicted class")
  axes.set_ylabel("true class")
  axes.grid(visible=False)
  if named:
    for row, column in zip(*np.nonzero(counts), strict=True):
      colour = "white" if shares[row, column] > 0.6 else "black"
      style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
      count = int(counts[row, column])
      text = f"{count:,}" if count < 100_000 else f"{count // 1000:,}k"
      axes.text(column, row, text, **style)
  bar = figure.colorbar(image, ax=axes, shrink=0.8)
  bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  bar.set_label("share of the true class")
  return figure
