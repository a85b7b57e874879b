import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.image import imread

from fedjax_norm.plots import base, clients, curves, side_labels


def rows(final=0.9, count=20, every=5):
  return [
    {
      "round": every * (i + 1),
      "top1": final * (i + 1) / count,
      "top5": min(1.0, final * (i + 1) / count + 0.05),
      "train_loss": 2.0 / (i + 1),
      "loss": 2.5 / (i + 1),
    }
    for i in range(count)
  ]


def lines(axes):
  return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def stacks(figure):
  """Returns [bars, classes] heights; checks that each part starts where the one below ends."""
  collections = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
  tops, heights = {}, []
  for i, collection in enumerate(collections):
    for path in collection.get_paths():
      x, y = path.vertices[:4].T
      bar = round(float(x.mean()))
      assert y.min() == tops.get(bar, 0)
      tops[bar] = y.max()
      heights.append((bar, i, y.max() - y.min()))
  table = np.zeros((max(tops) + 1, len(collections)), dtype=np.int64)
  for bar, i, height in heights:
    table[bar, i] = height
  return table


def test_learning_curves_draw_the_rows():
  data = rows()
  figure = curves.learning_curves_figure(data, "a run", phase_change=50)
  left, right = figure.axes
  for axes, names in (
    (left, {"top-1": "top1", "top-5": "top5"}),
    (right, {"train": "train_loss", "test": "loss"}),
  ):
    drawn = lines(axes)
    assert set(drawn) == set(names)
    for label, column in names.items():
      np.testing.assert_array_equal(drawn[label].get_xdata(), [row["round"] for row in data])
      np.testing.assert_array_equal(drawn[label].get_ydata(), [row[column] for row in data])
    assert [t.get_text() for t in axes.texts] == ["freeze"]
    assert any(list(line.get_xdata()) == [50, 50] for line in axes.lines)
  assert figure.get_suptitle() == "a run"


def test_learning_curves_omit_missing_columns_and_a_freeze_that_did_not_happen():
  left, right = curves.learning_curves_figure([{"round": 1, "top1": 0.5}], "short").axes
  assert set(lines(left)) == {"top-1"}
  assert not right.lines
  assert not left.texts


def test_compare_names_every_run_and_no_two_lines_look_alike():
  finals = {f"norm{i}": 0.9 - 0.01 * i for i in range(40)}
  figure = curves.compare_figure({name: rows(final) for name, final in finals.items()}, "norms")
  axes = figure.axes[0]
  drawn = lines(axes)
  assert list(drawn) == list(finals)
  in_grey = {(line.get_linestyle(), line.get_marker()) for line in drawn.values()}
  assert len(in_grey) == len(finals)
  texts = [t for t in axes.texts if t.get_text()]
  assert {t.get_text() for t in texts} == {f"{n} {f:.1%}" for n, f in finals.items()}
  figure.canvas.draw()
  boxes = sorted((t.get_window_extent() for t in texts), key=lambda box: box.y0)
  assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
  assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_compare_draws_a_deviation_as_a_band():
  spread = [{**row, "top1_std": 0.1} for row in rows(0.6)]
  axes = curves.compare_figure({"spread": spread, "single": rows(0.3)}, "t").axes[0]
  [band] = axes.collections
  x, heights = band.get_paths()[0].vertices.T
  final = heights[x == spread[-1]["round"]]
  assert (final.min(), final.max()) == pytest.approx((0.5, 0.7))
  assert [t.get_text() for t in axes.texts if t.get_text()] == [
    "spread 60.0% ± 10.0%",
    "single 30.0%",
  ]


def test_compare_draws_a_run_that_diverged_up_to_its_last_number():
  bad = [*rows()[:3], {"round": 20, "top1": float("nan")}]
  texts = [t.get_text() for t in curves.compare_figure({"bad": bad, "none": []}, "t").axes[0].texts]
  assert [t for t in texts if t] == ["bad 13.5%"]


@pytest.mark.parametrize(
  "heights", [[0.5], [0.5, 0.5, 0.5], [0.0, 0.01, 1.0], [1.0, 0.99, 0.98, 0.2, 0.21], [0.3, 0.9]]
)
def test_labels_are_moved_apart_and_stay_inside(heights):
  placed = side_labels.spread_out(heights, 0.05)
  ordered = np.array(placed)[np.argsort(heights, kind="stable")]
  assert (np.diff(ordered) >= 0.05 - 1e-6).all()
  assert min(placed) >= 0
  assert max(placed) <= 1
  if len(heights) == 1 or np.diff(sorted(heights)).min() >= 0.05:
    assert placed == heights


@pytest.mark.parametrize(("num_clients", "classes"), [(2, 10), (10, 20), (30, 3), (7, 200)])
def test_partition_stacks_are_the_counts(num_clients, classes):
  counts = np.random.default_rng(num_clients).integers(0, 9, (num_clients, classes))
  counts[1:, 0] = 0
  names = [f"c{i}" for i in range(classes)]
  figure = clients.partition_figure(counts, names, "p")
  np.testing.assert_array_equal(stacks(figure), counts)
  assert figure.axes[0].get_ylim()[1] >= counts.sum(1).max()
  if classes <= 20:
    assert [t.get_text() for t in figure.legends[0].get_texts()] == names[::-1]
  else:
    assert not figure.legends
    assert figure.axes[1].get_ylabel() == "class (200 in all)"


def test_more_clients_are_a_heat_map_of_the_classes_shares():
  counts = np.random.default_rng(0).integers(0, 9, (31, 3))
  counts[4] = 0  # a client without examples
  axes = clients.partition_figure(counts, ["a", "b", "c"], "p").axes[0]
  shares = counts.T / np.maximum(counts.sum(1), 1)
  np.testing.assert_allclose(axes.images[0].get_array(), shares)
  (above,) = axes.child_axes
  assert [bar.get_height() for bar in above.patches] == counts.sum(1).tolist()
  assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]


def test_partition_samples_many_clients_and_says_so():
  # Classes are assigned in turn, so a sample at even steps would show only one class.
  counts = np.eye(10, dtype=np.int64)[np.arange(100_000) % 10] * 7
  figure = clients.partition_figure(counts, [str(i) for i in range(10)], "p")
  drawn = figure.axes[0].images[0].get_array()
  assert drawn.shape == (10, 100)
  assert (drawn.sum(0) == 1).all()
  assert (drawn.sum(1) > 0).all()
  assert "100 of 100,000" in figure.axes[0].get_xlabel()
  # The counts of only the shown clients give the same plot.
  shown = clients.shown_clients(100_000)
  sampled = clients.partition_figure(counts[shown], [str(i) for i in range(10)], "p", 100_000)
  np.testing.assert_array_equal(sampled.axes[0].images[0].get_array(), drawn)
  assert sampled.axes[0].get_xlabel() == figure.axes[0].get_xlabel()


def test_partition_has_the_names_of_the_clients():
  names = ["Porto", "a clinic with a very long name", "Rome"]
  figure = clients.partition_figure(np.ones((3, 2), int), ["a", "b"], "p", client_names=names)
  labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
  assert labels == ["Porto", "a clinic w…long name", "Rome"]


@pytest.mark.parametrize("counts", [np.zeros(3), np.zeros((2, 4)), np.full((2, 3), -1)])
def test_partition_refuses_bad_counts(counts):
  with pytest.raises(ValueError, match=r"shape|negative"):
    clients.partition_figure(counts, ["a", "b", "c"], "p")


def test_client_accuracy_bars_are_sorted_and_the_mean_omits_missing_clients():
  with_ids = clients.client_accuracy_figure([0.9, 0.1], "c", np.array([7, 3])).axes[0]
  assert [tick.get_text() for tick in with_ids.get_xticklabels()] == ["3", "7"]
  axes = clients.client_accuracy_figure([0.9, float("nan"), 0.1, 0.5], "c").axes[0]
  assert [bar.get_height() for bar in axes.patches] == [0.1, 0.5, 0.9]
  assert [t.get_text() for t in axes.get_xticklabels()] == ["2", "3", "0"]
  assert lines(axes)["mean 50.0%"].get_ydata()[0] == pytest.approx(0.5)
  assert "1 without test examples" in axes.get_xlabel()


def test_client_accuracy_of_many_clients_is_a_histogram_of_all():
  values = np.linspace(0, 1, 5000)
  axes = clients.client_accuracy_figure(values, "c").axes[0]
  assert sum(bar.get_height() for bar in axes.patches) == 5000
  assert len(axes.patches) == 40


def test_plots_are_saved_without_changing_global_state(tmp_path):
  before = dict(matplotlib.rcParams)
  counts = np.full((100_000, 200), 3)
  figures = {
    "l.png": curves.learning_curves_figure(rows(), "l", 50),
    "c.png": curves.compare_figure({"gn": rows(), "bn": rows(0.3)}, "c"),
    "p.png": clients.partition_figure(counts, [str(i) for i in range(200)], "p"),
    "a.png": clients.client_accuracy_figure(np.array([0.5, 0.6]), "a"),
  }
  for name, figure in figures.items():
    base.save(figure, tmp_path / name)
  assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "c.png", "l.png", "p.png"]
  for file in tmp_path.iterdir():
    image = imread(file)
    assert min(image.shape[:2]) > 400
    assert image[..., :3].std() > 0.02
  assert dict(matplotlib.rcParams) == before
