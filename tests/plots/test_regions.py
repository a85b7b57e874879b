"""Figures of examples by class and region."""

import numpy as np
import pytest

from fedjax_norm.data.partitions import label_share
from fedjax_norm.plots import regions


def bars(figure):
  """Returns the bars of each series, name -> [(bottom, height)], and the names of the ticks."""
  (axes,) = figure.axes
  handles, labels = axes.get_legend_handles_labels()
  series = {
    name: [(bar.get_y(), bar.get_height()) for bar in group]
    for name, group in zip(labels, handles, strict=True)
  }
  return series, [tick.get_text() for tick in axes.get_xticklabels()]


def test_amounts_are_bars_with_names():
  (axes,) = regions.amounts_figure(np.array([3, 1]), ["cat", "emu"], "Classes").axes
  assert [bar.get_height() for bar in axes.patches] == [3, 1]
  assert [tick.get_text() for tick in axes.get_xticklabels()] == ["cat", "emu"]


def test_the_shares_of_a_class_are_stacked():
  share = label_share.normalized(np.array([[8, 2], [8, 32], [0, 5]]))
  series, ticks = bars(regions.share_figure(share, ["cat", "emu"], ["A", "B", "C"], "Shares"))
  assert ticks == ["cat", "emu"]
  assert list(series) == ["A", "B", "C"]
  top = np.zeros(2)
  for expected, drawn in zip(share, series.values(), strict=True):
    bottoms, heights = np.transpose(drawn)
    np.testing.assert_allclose(bottoms, top)
    np.testing.assert_allclose(heights, expected)
    top += expected


def test_small_ones_of_many_regions_are_drawn_as_one():
  counts = np.ones((30, 70))
  counts[4] = 50
  share = label_share.raw(counts)
  figure = regions.share_figure(
    share, [f"c{c}" for c in range(70)], [f"r{r}" for r in range(30)], "Shares"
  )
  series, ticks = bars(figure)
  assert len(series) == 20
  assert "r4" in series
  assert series["11 others"][0][1] == pytest.approx(11 / 79)
  assert ticks == [f"c{c}" for c in range(0, 70, 2)]  # every second bar has a name
