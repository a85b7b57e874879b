"""The figures of a study draw the numbers, and nothing overlaps."""

import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

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


def test_nearly_equal_bytes_look_alike_and_have_few_ticks():
  for low, high in ((13_480_000, 13_560_000), (21_000_000, 45_000_000), (10**7, 10**7)):
    points = [study.Point("a", low, 0.5, 0.1, True), study.Point("b", high, 0.6, 0.1, True)]
    axes = study.pareto_figure(points, "t", TOP1, named=2).axes[0]
    axes.figure.canvas.draw()
    left, right = axes.get_xlim()
    assert right >= 1.99 * left
    assert left < low <= high < right
    labels = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
    shown = [box for box in labels if axes.bbox.x0 - 40 < (box.x0 + box.x1) / 2 < axes.bbox.x1 + 40]
    assert 2 <= len(shown) <= 6
    assert all(one.x1 + 5 < other.x0 for one, other in itertools.pairwise(shown))


def test_names_keep_their_ends_and_are_no_formulas():
  tail = ", fedprox proximal_strength=0.01, 10 local steps"
  points = [study.Point(f"fixbn freeze_round=100{tail}", 1e6, 0.5, 0.1, True)]
  axes = study.pareto_figure(points, "t", TOP1, named=1).axes[0]
  [name] = [text.get_text() for text in axes.texts if text.get_text()]
  assert name.startswith("fixbn freeze_round=100")
  assert name.endswith(", 10 local steps")
  figure = study.shares_figure(["a"], ["$\\frac$", "US$ 1"], np.ones((1, 2)), "t", "l")
  FigureCanvasAgg(figure).draw()  # raised an error about the formula


def test_the_search_shows_the_rates_of_all_panels():
  searches = [
    study.Search("one rate", [(0.1, 5, 0.8), (0.12, 5, 0.8)], 0.1, None),
    study.Search("many", [(0.001, 5, 0.7), (1.0, 5, 0.8)], 1.0, 0.001),
  ]
  axes = study.search_figure(searches, "t", TOP1).axes[0]
  left, right = axes.get_xlim()
  assert left < 0.001 < 1 < right


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
