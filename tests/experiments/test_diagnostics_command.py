"""``experiments.diagnostics``: its data against NumPy, its pictures, and what it refuses."""

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers.contenders import ROUNDS
from helpers.finished_runs import write_run

from fedjax_norm.cli.commands.diagnostics import DiagnosticsFlags, main
from fedjax_norm.errors import UserError
from fedjax_norm.plots import base
from fedjax_norm.plots.client_differences import differences_figure
from fedjax_norm.training.storage.csv_rows import read_rows, write_table

CHANNELS = [f"Norm_0:{c}" for c in range(3)]
BLOCKS = [f"{i} on {block}" for i in range(2) for block in ("0-1", "2-3")]
PLACES = {
  "mean_divergence": CHANNELS, "accuracy_on_blocks": BLOCKS, "residual_update_delta": [""],
  "gradient_deviation": ["Conv_0", "Block_0/Norm_1"],
}  # fmt: skip
PARTITIONS = ("iid", "skew")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
  """Returns a folder with two runs of two seeds, and (partition, quantity) -> values [S, R, P]."""
  folder, rng, values = tmp_path_factory.mktemp("runs"), np.random.default_rng(0), {}
  for partition in PARTITIONS:
    run = write_run(folder / partition, "fedavg", [0.5, 0.6], partition=partition, norm="bn")
    for quantity, places in PLACES.items():
      values[partition, quantity] = rng.uniform(0, 1.9, (2, len(ROUNDS), len(places)))
    losses = values[partition, "accuracy_loss"] = rng.normal(size=(2, len(ROUNDS)))
    losses[:, 0] = np.nan  # not measured yet
    for seed in range(2):
      rows = [
        {"round": ROUNDS[i], "quantity": quantity, "place": place, "value": float(value)}
        for quantity, places in PLACES.items()
        for i, line in enumerate(values[partition, quantity][seed])
        for place, value in zip(places, line, strict=True)
      ]
      other = {**rows[0], "quantity": "mean_divergence_median"}
      write_table(run / f"seed_{seed}" / "diagnostics.csv", [*rows, other])
      metrics = run / f"seed_{seed}" / "metrics.csv"
      pairs = zip(read_rows(metrics)[0], losses[seed].tolist(), strict=True)
      write_table(metrics, [{**row, "accuracy_loss": loss} for row, loss in pairs])
  return folder, values


def read(path):
  with open(path) as file:
    return list(csv.DictReader(file))


def test_the_data_of_each_figure_is_that_of_numpy(recorded, tmp_path, monkeypatch, capsys):
  """Figures 4, 16, 17 and 21 to 24: means and deviations over two seeds."""
  folder, values = recorded
  monkeypatch.chdir(tmp_path)
  main(DiagnosticsFlags(epoch=500), *(str(folder / name) for name in PARTITIONS))
  names = {path.name for path in Path("diagnostics").iterdir()}
  quantities = {*PLACES, "top1", "accuracy_loss"}
  assert names == {f"{name}.{kind}" for name in quantities for kind in ("csv", "png")}
  epochs = np.cumsum([100 * i for i in range(1, 1 + len(ROUNDS))]) / 500
  for partition in PARTITIONS:
    for quantity in quantities:
      rows = [r for r in read(f"diagnostics/{quantity}.csv") if f"({partition})" in r["run"]]
      found = np.array([[float(r["value"]), float(r["std"])] for r in rows]).T
      times = [float(row["epoch"]) for row in rows]
      if quantity == "top1":
        expected, at = None, epochs
        assert found[0][-1] == pytest.approx(0.55)
      elif quantity == "accuracy_loss":  # the first row has no measurement
        expected, at = values[partition, quantity][:, 1:], epochs[1:]
      elif quantity == "residual_update_delta":
        expected, at = values[partition, quantity][..., 0], epochs
      elif quantity == "gradient_deviation":  # of each layer at each evaluation
        expected = values[partition, quantity].reshape(2, -1)
        at = np.repeat(epochs, len(PLACES[quantity]))
        assert [row["place"] for row in rows] == PLACES[quantity] * len(epochs)
      else:  # of the last evaluation
        expected = values[partition, quantity][:, -1]
        at = np.repeat(epochs[-1], expected.shape[1])
        assert [row["place"] for row in rows] == PLACES[quantity]
      np.testing.assert_allclose(times, at)
      if expected is not None:
        np.testing.assert_allclose(found, [expected.mean(0), expected.std(0, ddof=1)])
  out = capsys.readouterr().out
  assert "none of the runs" not in out
  loss = values["skew", "accuracy_loss"][:, 1:].mean(0)
  (line,) = (x for x in out.splitlines() if "accuracy_loss" in x and "skew" in x)
  assert line.split()[-3:] == [f"{x:.4g}" for x in (loss.min(), loss.mean(), loss.max())]


def test_runs_without_diagnostics_are_told(tmp_path, monkeypatch, capsys):
  run = write_run(tmp_path / "iid", "fedavg", [0.5, 0.6], partition="iid", norm="bn")
  monkeypatch.chdir(tmp_path)
  main(DiagnosticsFlags(), str(run))
  assert "none of the runs was trained with --diagnostics" in capsys.readouterr().out


def test_an_option_divides_the_runs_into_panels(recorded, tmp_path, monkeypatch):
  monkeypatch.setattr(base, "save", lambda figure, path: None)
  folder, _ = recorded
  flags = DiagnosticsFlags(panels="partition", output=str(tmp_path / "new"))
  main(flags, *(str(folder / name) for name in PARTITIONS))
  rows = read(tmp_path / "new" / "top1.csv")
  assert {(row["panel"], row["run"]) for row in rows} == {
    (f"partition = {name}", rows[0]["run"]) for name in PARTITIONS
  }
  with pytest.raises(UserError, match="no empty folder"):
    main(flags, str(folder / "iid"))


def row(place, value, images=1):
  return {"images": images, "place": place, "value": value, "std": float("nan")}


def test_figures_draw_the_values():
  runs = {"a": [row("N:0", 0.5), row("N:1", 7.0)], "b": [row("N:0", 0.1), row("N:1", np.inf)]}
  (axes,) = differences_figure("mean_divergence", {"": runs}, "t").axes
  assert [bar.get_height() for bar in axes.patches] == [0.5, 2.0, 0.1, 2.0]
  assert axes.get_xlabel() == "channel of N (2 cut at 200%)"
  runs = {"a": [row("0 on 0-1", 0.9), row("0 on 2-3", 0.1)], "b": [row("1 on 0-1", float("nan"))]}
  (axes,) = differences_figure("accuracy_on_blocks", {"": runs}, "t").axes
  assert [bar.get_height() for bar in axes.patches] == [0.9, 0, 0.1, 0]
  assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a\nmodel 0", "b\nmodel 1"]
  panels = {name: {"a": [row("", -0.2), row("", top, 5)]} for name, top in (("x", 1.5), ("y", 3.0))}
  figure = differences_figure("accuracy_loss", panels, "t")
  assert len({axes.get_ylim() for axes in figure.axes}) == 1
  assert figure.axes[1].lines[0].get_xydata().tolist() == [[1, -0.2], [5, 3.0]]
  assert figure.axes[0].get_ylim()[0] < -0.2


def test_many_blocks_are_a_table_and_layers_a_range():
  rows = [row(f"{i} on {j}-{j}", (i + j) / 10) for i in range(4) for j in range(4)]
  (axes,) = differences_figure("accuracy_on_blocks", {"": {"a": rows}}, "t").axes
  shown = axes.images[0].get_array()
  np.testing.assert_allclose(shown, np.add.outer(np.arange(4), np.arange(4)) / 10)
  assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2", "3"]
  assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"a, model {i}" for i in range(4)]
  layers = {"fixbn": [row(f"L{i}", 10.0 ** (-i - 3 * n), n) for n in (1, 2) for i in range(3)]}
  (axes,) = differences_figure("gradient_deviation", {"": layers}, "t").axes
  assert axes.lines[0].get_xydata().tolist() == pytest.approx(np.array([[1, 1e-4], [2, 1e-7]]))
  band = axes.collections[0].get_paths()[0].vertices
  assert {1e-3, 1e-5, 1e-6, 1e-8} == {float(f"{y:.3g}") for _, y in band}
  assert axes.get_yscale() == "log"


@pytest.mark.parametrize(
  ("flags", "paths", "words"),
  [
    ({}, (), "name the folders"),
    ({}, ("nowhere",), "holds no run"),
    ({"panels": "colour"}, ("iid",), "no option of the run"),
    ({}, ("iid", "iid"), "same options"),
  ],
)
def test_errors_are_one_sentence(recorded, monkeypatch, flags, paths, words):
  monkeypatch.chdir(recorded[0])
  with pytest.raises(UserError, match=words):
    main(DiagnosticsFlags(**flags), *paths)
  assert not Path("diagnostics").exists()
