"""Grouped bars."""

import math

import numpy as np
import pytest

from fedjax_norm.plots import bars


def test_bars_are_in_their_groups_with_their_values():
  series = {"IID": [75.0, math.nan], "non-IID": [70.0, 10.0]}
  (axes,) = bars.bars_figure(["BSP", "Gaia"], series, "Accuracy", "top-1", missing="lost").axes
  assert [tick.get_text() for tick in axes.get_xticklabels()] == ["BSP", "Gaia"]
  positions = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches]
  assert [height for _, height in positions] == [75, 0, 70, 10]
  assert [round(x) for x, _ in positions] == [0, 1, 0, 1]
  assert positions[0][0] < 0 < positions[2][0]
  assert {text.get_text() for text in axes.texts} == {"75.0", "lost", "70.0", "10.0"}
  assert [text.get_text() for text in axes.get_legend().get_texts()] == ["IID", "non-IID"]
  assert axes.get_ylim()[0] == 0


def test_one_series_needs_no_legend():
  (axes,) = bars.bars_figure(["a", "b", "c"], {"x": [1, 2, 3]}, "t", "y", "{:.0f}x").axes
  assert axes.get_legend() is None
  assert [text.get_text() for text in axes.texts] == ["1x", "2x", "3x"]


def test_error_bars_reach_a_deviation_up_and_down():
  heights, deviations = {"x": [3, math.nan, 2]}, {"x": [1, math.nan, math.nan]}
  (axes,) = bars.bars_figure(["a", "b", "c"], heights, "t", "y", deviations=deviations).axes
  (lines,) = axes.containers[0].lines[2]
  reach = [np.ravel(line)[1::2].tolist() for line in lines.get_segments() if len(line)]
  assert [ends for ends in reach if np.isfinite(ends).all()] == [[2, 4]]


def test_a_series_needs_a_value_for_each_group():
  with pytest.raises(ValueError, match="2 groups"):
    bars.bars_figure(["a", "b"], {"x": [1]}, "t", "y")
