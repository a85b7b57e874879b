"""The figures of a study draw the numbers, and nothing overlaps."""

import itertools

import numpy as np

from fedjax_norm.evaluation.measures import MEASURES
from fedjax_norm.plots import study

TOP1 = MEASURES["top1"]


def test_points_have_their_bytes_and_names_that_do_not_overlap():
  points = [
    study.Point(f"contender {i}", 10.0 ** (5 + i / 8), 0.9 + i / 1000, 0.01, i % 5 == 0)
    for i in range(40)
  ]
  figure = study.pareto_figure(points, "t", TOP1, named=12)
  axes = figure.axes[0]
  drawn = [(c.lines[0].get_xdata()[0], c.lines[0].get_ydata()[0]) for c in axes.containers]
  assert drawn == [(point.sent, point.score) for point in points]
  [front] = [line for line in axes.lines if line.get_label() == "Pareto front"]
  assert list(front.get_xdata()) == [point.sent for point in points if point.efficient]
  names = [text for text in axes.texts if text.get_text()]
  assert [text.get_text() for text in names] == [point.name for point in points[:12]]
  assert [text.get_weight() == "bold" for text in names] == [p.efficient for p in points[:12]]
  figure.canvas.draw()
  boxes = sorted((text.get_window_extent() for text in names), key=lambda box: box.y0)
  assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
  ticks = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
  assert all(left.x1 < right.x0 for left, right in itertools.pairwise(ticks))


def test_the_lowest_share_of_a_row_is_framed():
  values = np.array([[0.9, 0.2, np.nan], [0.5, 0.6, 0.7]])
  axes = study.shares_figure("ab", "xyz", values, "t", "l", marked=[2]).axes[0]
  assert [text.get_text() for text in axes.texts] == ["90", "20", "-", "50", "60", "70"]
  corners = [(round(p.get_x() + 0.46), round(p.get_y() + 0.44)) for p in axes.patches]
  assert corners == [(1, 0), (0, 1)]
  assert [t.get_fontstyle() for t in axes.get_xticklabels()] == ["normal", "normal", "italic"]


def test_of_many_columns_the_lowest_is_named():
  values = np.linspace(0.5, 1, 60)[None]
  axes = study.shares_figure(["a"], [f"c{i}" for i in range(60)], values, "t", "l").axes[0]
  assert [text.get_text() for text in axes.texts] == ["c0"]
  np.testing.assert_allclose(axes.collections[0].get_offsets()[:, 0], values[0])


def test_the_search_marks_the_chosen_rate_the_runner_up_and_divergence():
  trials = [(0.1, 5, 0.8), (0.01, 5, 0.7), (1.0, 5, None), (0.1, 10, 0.9)]
  searches = [study.Search(str(i), trials, 0.1, 0.01) for i in range(3)]
  figure = study.search_figure(searches, "t", TOP1)
  axes = figure.axes[0]
  marks = {
    line.get_marker(): (line.get_xdata()[0], line.get_ydata()[0])
    for line in axes.lines
    if line.get_marker() in "*ox"
  }
  assert marks["*"] == (0.1, 0.9)
  assert marks["o"] == (0.01, 0.7)
  assert marks["x"][0] == 1.0
