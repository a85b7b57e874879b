"""Plot of images with their true and predicted masks, whose colours are classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fedjax_norm.objectives import IGNORED
from fedjax_norm.plots import base


def masks_figure(
  images: np.ndarray,
  true: np.ndarray,
  predicted: np.ndarray,
  class_names: Sequence[str],
  title: str,
) -> Figure:
  """Draws a column for each image: the image, its true mask and the predicted mask.

  The legend names the classes that occur in the masks, if they are not too many. Ignored pixels of
  the true mask are white.

  Args:
    images: [N, H, W, C] with values from 0 to 1; unless C is 3, the first channel is drawn in gray.
    true: [N, H, W] ints, the true class of each pixel, possibly ``IGNORED``.
    predicted: [N, H, W] ints, the predicted class of each pixel.
    class_names: name of each class.
    title: title of one line.
  """
  colours = np.array([to_rgb(c) for c in base.category_colours(len(class_names))])
  count, height, width = true.shape
  size = (2.4 * count + 2.2, min(7.2 * height / width, 9.0) + 0.6)
  figure, _ = base.new_figure(title, size, 0)
  panels = figure.subplots(3, count, squeeze=False)
  style: dict[str, Any] = {"interpolation": "nearest"}
  for column, (image, *pair) in enumerate(zip(images, true, predicted, strict=True)):
    rgb = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    drawn = [np.clip(rgb, 0, 1), *(_coloured(mask, colours) for mask in pair)]
    for axes, pixels in zip(panels[:, column], drawn, strict=True):
      axes.imshow(pixels, **style)
      axes.set_xticks([])
      axes.set_yticks([])
      axes.spines[:].set_color("0.8")
  for axes, name in zip(panels[:, 0], ("image", "true mask", "predicted"), strict=True):
    axes.set_ylabel(name)
  present = [k for k in np.unique([true, predicted]) if k != IGNORED]
  if len(present) <= base.MOST_NAMED:
    names = [base.shortened(class_names[k], 20) for k in present]
    patches = [Patch(color=colours[k], label=n) for k, n in zip(present, names, strict=True)]
    figure.legend(handles=patches, loc="outside right center", frameon=False, fontsize=8)
  return figure


def _coloured(mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
  """Returns the classes [H, W] of pixels as colours [H, W, 3]."""
  known = mask != IGNORED
  return np.where(known[..., None], colours[np.where(known, mask, 0)], 1.0)
