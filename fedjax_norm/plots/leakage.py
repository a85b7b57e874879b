"""The figure of the leakage at the cut layers of a split model."""

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedjax_norm.plots.base import save, style, tidy
from fedjax_norm.training.cut_leakage import Leakage

_PANELS: Mapping[str, Mapping[str, str]] = {
  "dependence of activations on images": {
    "distance_correlation": "distance correlation",
    "distance_correlation_corrected": "bias-corrected",
  },
  "images from activations": {
    "reconstruction_error": "error / error of the mean image",
    "ssim": "structural similarity",
  },
  "labels from gradients (U-shape)": {
    "labels_by_known": "some labels known",
    "labels_by_clusters": "no labels known: clusters",
    "labels_shuffled": "clusters, shuffled labels",
  },
}


def leakage(measured: Leakage, path: str | os.PathLike, title: str) -> None:
  """Saves the figure of :func:`leakage_figure` as the file ``path``."""
  save(leakage_figure(measured, title), path)


def leakage_figure(measured: Leakage, title: str) -> Figure:
  """Draws the measures against the cut layer, and images above their reconstructions.

  ``measured`` has the results of at least one cut layer.
  """
  rows = measured.rows
  panels = {name: labels for name, labels in _PANELS.items() if next(iter(labels)) in rows[0]}
  height = 0.75 * (len(rows) + 1)
  figure = Figure(figsize=(3.8 * len(panels), 3.6 + height), layout="constrained")
  FigureCanvasAgg(figure)
  figure.suptitle(title, fontsize=12)
  parts = figure.add_gridspec(2, 1, height_ratios=[3.6, height])
  above, below = (figure.add_subfigure(parts[i]) for i in range(2))
  for axes, (name, columns) in zip(above.subplots(1, len(panels)), panels.items(), strict=True):
    axes.set_title(name, fontsize=10)
    tidy(axes)
    for i, (column, label) in enumerate(columns.items()):
      axes.plot([row[column] for row in rows], label=label, **style(i))
    axes.set_xticks(range(len(rows)), [row["cut"] for row in rows], rotation=45, ha="right")
    axes.set_xlabel("cut after")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]), top=max(1.05, axes.get_ylim()[1]))
    axes.legend(frameon=False, fontsize=8)
  names = ["image", *(row["cut"] for row in rows)]
  strips = below.subplots(len(names), 1, squeeze=False)[:, 0]
  shown = [measured.images, *measured.reconstructions]
  for axes, name, images in zip(strips, names, shown, strict=True):
    _strip(axes, name, images)
  return figure


def _strip(axes: Axes, name: str, images: np.ndarray) -> None:
  """Draws images [S, H, W, C] in a row, with a gap of one pixel."""
  _, height, width, channels = images.shape
  padded = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1.0)
  line = padded.transpose(1, 0, 2, 3).reshape(height, len(images) * (width + 1), channels)[:, :-1]
  colours = line if channels == 3 else np.repeat(line.mean(-1, keepdims=True), 3, -1)
  axes.imshow(colours.clip(0, 1), aspect="equal", interpolation="nearest")
  axes.set_xticks([])
  axes.set_yticks([])
  axes.spines[:].set_visible(False)
  axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
