import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from fedjax_norm.plots import diagnostics

MEANS, VARIANCES = [0.5, 0.1, 7.0], [0.05, 0.01, 0.02]


def row(round, quantity, place, value):
  return {"round": round, "quantity": quantity, "place": place, "value": value}


def recorded(round):
  yield from (row(round, "mean_divergence", f"B_0/N_1:{c}", v) for c, v in enumerate(MEANS))
  yield from (row(round, "variance_divergence", f"B_0/N_1:{c}", v) for c, v in enumerate(VARIANCES))
  yield row(round, "mean_divergence_median", "B_0/N_1", 0.5)
  yield row(round, "local_update_delta", "", 0.01 * round)
  yield row(round, "neuron_difference", "", 0.1 * round)
  yield row(round, "neuron_difference_by_layer", "B_0/N_1", 9.0)
  for i, j in itertools.product((3, 8), (3, 8)):
    yield row(round, "accuracy", f"{i} on {j}", 0.9 if i == j else 0.05 * round)


ROWS = [*recorded(2), *recorded(4)]
METRICS = [{"round": 2, "accuracy_loss": 0.1}, {"round": 3}, {"round": 4, "accuracy_loss": 0.3}]


def test_every_panel_draws_the_recorded_values():
  figure = diagnostics.diagnostics_figure(ROWS, METRICS, "a run")
  bars, deltas, table, losses = figure.axes
  heights = [bar.get_height() for bar in bars.patches]
  assert heights == [0.5, 0.1, 2.0, *VARIANCES]
  assert bars.get_xlabel() == "channel of B_0/N_1 (cut at 200%: 1)"
  drawn = {line.get_label(): line.get_xydata().tolist() for line in deltas.lines}
  assert drawn == {
    "local change / weight": [[2, 0.02], [4, 0.04]],
    "neurons between clients": [[2, 0.2], [4, 0.4]],
  }
  assert [text.get_text() for text in table.texts] == ["90", "20", "20", "90"]
  np.testing.assert_allclose(table.images[0].get_array(), [[0.9, 0.2], [0.2, 0.9]])
  assert [tick.get_text() for tick in table.get_xticklabels()] == ["3", "8"]
  assert losses.lines[0].get_xydata().tolist() == [[2, 0.1], [4, 0.3]]


def test_gradients_have_a_line_for_some_of_the_layers():
  rows = [
    row(round, "gradient_deviation", f"Conv_{i}", 10.0 ** (-round - i))
    for round in (1, 2)
    for i in range(11)
  ]
  (axes,) = diagnostics.diagnostics_figure(rows, [], "a run", frozen_at=2).axes
  *lines, freeze = axes.lines
  assert (freeze.get_label(), list(freeze.get_xdata())) == ("freeze", [2, 2])
  drawn = {line.get_label(): line.get_ydata().tolist() for line in lines}
  assert drawn == {f"Conv_{i}": [10.0 ** (-1 - i), 10.0 ** (-2 - i)] for i in range(0, 11, 2)}
  assert axes.get_yscale() == "log"


def test_the_text_of_a_cell_contrasts_with_its_colour():
  """White text on dark cells, black text on bright cells and on empty ones."""
  cells = {"0 on 0": 0.2, "0 on 1": 0.8, "0 on 2": float("nan")}
  rows = [row(1, "accuracy", place, value) for place, value in cells.items()]
  (table,) = diagnostics.diagnostics_figure(rows, [], "a run").axes
  colours = {text.get_text(): text.get_color() for text in table.texts}
  assert colours == {"20": "white", "80": "black", "-": "black"}


@pytest.mark.parametrize(
  ("rows", "metrics", "panels"),
  [
    ([r for r in ROWS if r["quantity"] == "accuracy"], [], 1),
    ([], METRICS, 1),
    ([r for r in ROWS if r["quantity"] != "accuracy"], METRICS, 3),
    ([row(1, "local_update_delta", "", 0.0)], [], 1),
  ],
)
def test_a_panel_without_data_is_omitted(rows, metrics, panels):
  figure = diagnostics.diagnostics_figure(rows, metrics, "a run")
  assert len(figure.axes) == panels
  figure.canvas.draw()


def test_the_plot_is_saved_only_if_there_is_data(tmp_path):
  diagnostics.diagnostics([], [{"round": 1}], tmp_path / "none.png", "t")
  diagnostics.diagnostics(ROWS, [], tmp_path / "some.png", "t")
  assert [file.name for file in tmp_path.iterdir()] == ["some.png"]
  assert imread(tmp_path / "some.png")[..., :3].std() > 0.02
