"""The picture of images with masks shows the pixels' classes by colour."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fedjax_norm.objectives import IGNORED
from fedjax_norm.plots import base, masks


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_stands_above_its_true_and_its_predicted_mask(channels):
  images = np.random.default_rng(0).uniform(size=(2, 2, 3, channels))
  true = np.array([[[0, 0, 2], [IGNORED, 2, 0]], [[0] * 3] * 2])
  predicted = np.zeros_like(true)
  predicted[0, 1, 2] = 2
  figure = masks.masks_figure(images, true, predicted, ["road", "car", "sky"], "a run")
  drawn = [axes.images[0].get_array() for axes in figure.axes]
  colours = {k: to_rgb(base.category_colours(3)[k]) for k in range(3)} | {IGNORED: (1, 1, 1)}
  for i in range(2):
    np.testing.assert_allclose(drawn[i], np.broadcast_to(images[i], (2, 3, 3)))
    for row, mask in ((1, true[i]), (2, predicted[i])):
      expected = [[colours[k] for k in line] for line in mask]
      np.testing.assert_allclose(drawn[2 * row + i], expected)
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["road", "sky"]
  figure.canvas.draw()
