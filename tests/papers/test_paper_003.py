"""Paper 003: its tables as data, client costs, and equality of split learning and one machine."""

import csv
import io
import math
import re

import numpy as np
import pytest
from helpers.binaries import ROOT

from fedjax_norm import models
from fedjax_norm.cli import methods, train
from fedjax_norm.cli.commands import paper
from fedjax_norm.errors import UserError
from fedjax_norm.models import flops
from fedjax_norm.models.stages import stage_names
from fedjax_norm.papers import client_costs
from fedjax_norm.papers.client_costs import ClientCost as Cost
from fedjax_norm.papers.client_costs import costs_of_run, costs_of_runs
from fedjax_norm.study import cells

PAPERS = ROOT.parent / "shared" / "papers"
DATA = {"MNIST": "mnist", "CIFAR 10": "cifar10", "CIFAR 100": "cifar100", "ILSVRC 12": "ilsvrc"}


@pytest.mark.skipif(not PAPERS.is_dir(), reason="needs the paper's text in ../shared/papers")
def test_the_tables_are_copied_correctly():
  text = next(PAPERS.glob("003_*.txt")).read_text()
  rows = re.findall(r"^(MNIST|CIFAR 100?|ILSVRC 12)\t(.*)$", text, re.MULTILINE)
  assert len(rows) == 8
  for number, half in (("1", rows[:4]), ("2", rows[4:])):
    for name, row in half:
      columns = [part.strip(" %*") for part in row.split("\t")]
      row_cells = paper.TABLES[f"003.{number}.{DATA[name]}"].cells
      printed = columns[1:3] if number == "1" else columns
      assert [cell.paper[0] for cell in row_cells] == list(map(float, printed))
      if number == "1":
        for cell in row_cells:
          config = cell.config("full")
          assert int(columns[3]) == (config.epochs if "single" in cell.label else config.rounds)
  assert all(
    paper.judge(claim, table.paper_values("top1")).startswith("holds")
    for name, table in paper.TABLES.items()
    if name.startswith(("003.1", "003.2"))
    for claim in table.claims
  )


def test_full_scale_has_the_settings_of_the_text():
  shares = {"1 agent": (1, 0.1), "5 agents": (5, 0.5), "10 agents": (10, None)}
  for name in DATA.values():
    for cell in paper.TABLES[f"003.2.{name}"].cells:
      config = cell.config("full")
      assert (config.clients, config.train_share) == shares[cell.label]
      assert config.local_epochs == 1
    # The last cell, with all data, is split learning's run of table 1.
    assert cell.name == paper.TABLES[f"003.1.{name}"].cells[1].name
  figures = {"3a": (100, "vgg16"), "3b": (500, "resnet50"), "4a": (500, "vgg16")}
  figures["4b"] = figures["3b"]
  for number, (clients, model) in figures.items():
    table = paper.TABLES[f"003.fig{number}"]
    configs = [cell.config("full") for cell in table.cells]
    data = "cifar10" if model == "vgg16" else "cifar100"
    assert {(c.clients, c.model, c.data) for c in configs} == {(clients, model, data)}
    assert [c.algorithm for c in configs] == ["split", "fedavg", "ssgd"]
    assert configs[2].clients * configs[2].batch_size == 1000
    for scale in ("smoke", "small"):  # equal numbers of examples between evaluations
      _, fedavg, ssgd = (cell.config(scale) for cell in table.cells)
      assert (fedavg.rounds, fedavg.eval_every) == (ssgd.epochs, ssgd.eval_every)


# Table 1.


def test_split_learning_equals_a_single_machine(tmp_path, monkeypatch):
  """The presets of MNIST on other data have the same evaluations, to float tolerance."""
  monkeypatch.setattr(train.run_report, "print_communication", lambda *_: None)  # slow
  small = {
    "data": "synthetic:classes=4,train=48,test=16,size=6",
    "data_dir": None,
    "model": "tiny",
    "batch_size": 8,
    "host_devices": 1,
    "lr_boundaries": (1,),
    "eval_every": 1,
    "progress": False,
  }
  single, split = paper.TABLES["003.1.mnist"].cells
  results = []
  for cell, length in ((single, {"epochs": 2}), (split, {"rounds": 2, "clients": 3})):
    config = cell.config("full", **small, **length)
    source = train.load(config)
    results.append(
      cells.run_cell(cell.name, config, source, tmp_path / cell.name, cell.make_program)
    )
  one, several = (result.rows for result in results)
  assert len(one) == len(several) == 2
  for single_row, split_row in zip(one, several, strict=True):
    assert single_row["examples"] == split_row["examples"] == 48
    for name in ("train_loss", "loss", "train_top1", "top1"):
      assert split_row[name] == pytest.approx(single_row[name], rel=1e-5)
  assert one[0]["loss"] != one[1]["loss"]
  # The clients of split learning compute less than the whole network.
  costs = costs_of_runs({"single": results[0], "split": results[1]})
  assert 0 < costs["split"][-1].client_flops < costs["single"][-1].client_flops / 2
  # FLOPs computed from the layers' shapes omit norms, activations and pools.
  _, task_model = train.prepare(config, source)
  by_shape = flops.training_flops(task_model.model, (6, 6, 3))
  counted = costs["single"][-1].client_flops / 96
  assert 0.6 * by_shape < counted < 1.5 * by_shape


# Figures 3 and 4: client costs.


def row(round_, top1, examples, up, down, **more):
  counts = {"examples": examples, "bytes_up": up, "bytes_down": down}
  return {"round": round_, "top1": top1, **counts, **more}


def test_costs_computed_by_hand():
  """Examples are summed; bytes and split learning's operations are already totals."""
  whole = [row(1, 0.3, 100, 5, 7), row(2, 0.5, 100, 10, 14), row(4, 0.6, 200, 20, 28)]
  assert costs_of_run(whole, 7.0) == [
    Cost(1, 0.3, 700.0, 12),
    Cost(2, 0.5, 1400.0, 24),
    Cost(4, 0.6, 2800.0, 48),
  ]
  split = [row(1, 0.4, 100, 1, 2, client_flops=30.0), row(2, 0.7, 100, 2, 4, client_flops=60.0)]
  assert costs_of_run(split, math.nan) == [Cost(1, 0.4, 30.0, 3), Cost(2, 0.7, 60.0, 6)]


SPLIT = [Cost(1, 0.4, 30.0, 300), Cost(2, 0.7, 60.0, 600)]
FEDAVG = [Cost(1, 0.3, 700.0, 100), Cost(2, 0.6, 1400.0, 200), Cost(3, 0.5, 2100.0, 300)]


def test_runs_are_compared_at_the_common_accuracy():
  runs = {"split": SPLIT, "fedavg": FEDAVG}
  assert client_costs.common_accuracy(runs) == 0.6
  assert client_costs.at_common_accuracy(runs) == {"split": SPLIT[1], "fedavg": FEDAVG[1]}
  assert client_costs.ratios(runs, "client_flops") == {"split": 1.0, "fedavg": 1400 / 60}
  assert client_costs.ratios(runs, "sent") == {"split": 1.0, "fedavg": 200 / 600}
  text = client_costs.render(runs)
  assert "run, at 60.00%" in text
  assert "| fedavg | 2 | 1.40 kFLOP | 23.33 | 200.00 B | 0.33 |" in text
  rows = list(csv.DictReader(io.StringIO(client_costs.as_csv(runs))))
  assert [float(line["client_flops"]) for line in rows] == [30, 60, 700, 1400, 2100]
  assert list(rows[3].values()) == ["fedavg", "2", "60.0", "1400.0", "200"]
  assert list(rows[3]) == ["cell", "round", "top1", "client_flops", "bytes"]
  lost = {"split": SPLIT, "fedavg": []}
  assert client_costs.at_common_accuracy(lost) == {}
  assert all(math.isnan(value) for value in client_costs.ratios(lost, "sent").values())
  assert "diverged" in client_costs.render(lost)


def test_a_figure_of_client_costs_is_rendered_and_drawn(tmp_path, monkeypatch):
  """Split learning's operations are in its rows; others are counted from the whole network."""
  table = paper.TABLES["003.fig3a"].at("smoke")
  rows = (
    [row(1, 0.5, 10, 4, 4, client_flops=20.0)],
    [row(1, 0.4, 10, 1, 1), row(2, 0.6, 10, 2, 2)],
    [row(5, 0.5, 50, 8, 8)],
  )
  results = {
    cell.name: paper.Result({"top1": run[-1]["top1"]}, run, 10, lambda: 3.0)
    for cell, run in zip(table.cells, rows, strict=True)
  }
  text = paper.render(table, "smoke", results)
  scale_note = "run at scale smoke: tiny, digits, 10 clients"
  assert f"figure 3a: VGG, CIFAR-10, 100 clients; {scale_note} (003.fig3a)" in text
  assert "up to `conv1`; FedAvg" in text
  assert "uses 80 images" in text
  assert "| FedAvg | 2 | 60.00 FLOP | 3.00 | 4.00 B | 0.50 |" in text
  assert re.search(r"FedAvg compute more .* \| holds: 3.00 times \| not in the text", text)
  assert re.search(r"SGD compute more .* \| holds: 7.50 times \|", text)
  sent = paper.judge(paper.TABLES["003.fig4a"].claims[0], paper.our_values(table, results, "sent"))
  assert sent == "does not hold: 0.50 times"
  drawn = {}
  monkeypatch.setattr(paper.base, "save", lambda figure, path: drawn.update({path.name: figure}))
  paper.draw(table, results, tmp_path)
  (axes,) = drawn["003.fig3a.png"].axes
  assert drawn["003.fig3a.png"].get_suptitle().endswith(f"100 clients\n{scale_note}")
  assert axes.get_xscale() == "log"
  assert axes.get_xlabel() == "operations of all clients"
  lines = {line.get_label(): line.get_xdata() for line in axes.lines}
  for cell, xs in zip(table.cells, ([20], [30, 60], [150]), strict=True):
    np.testing.assert_array_equal(lines[cell.label], xs)
  with open(tmp_path / "003.fig3a.csv", newline="") as file:
    assert [line["bytes"] for line in csv.DictReader(file)] == ["8", "2", "4", "16"]


def test_notes_on_a_scale_describe_its_runs():
  """The client has the first stage with parameters of the scale's network."""
  for number, cut in (("3a", "conv1"), ("4b", "stem")):
    table = paper.TABLES[f"003.fig{number}"]
    *_, note = table.at("small").notes
    assert f"up to `{cut}`;" in note
    assert "uses 1,000 images" in note
    config = table.cells[0].config("small")
    model = models.create(config.model, config.make_norm(1), 10, (16, 16, 3))
    assert stage_names(model)[0] == cut
  *_, note = paper.TABLES["003.fig3a"].at("full").notes
  assert "up to `conv1_2`;" in note
  assert table.at("full").scale_note == ""
  assert table.at("small").scale_note == "run at scale small: resnet20, cifar10, 500 clients"


# Table 2: the data of some agents.


def test_a_share_of_the_training_examples():
  data = "synthetic:classes=2,train=30,test=6,size=4"
  shares = {"all": None, "some": 0.1, "half": 0.5}
  loaded = cells.load_sources(
    {name: methods.FEDAVG_CONFIG(data=data, train_share=share) for name, share in shares.items()}
  )
  assert [len(source.train.labels) for source in loaded.values()] == [30, 3, 15]
  for source in loaded.values():
    np.testing.assert_array_equal(source.test.images, loaded["all"].test.images)
  with pytest.raises(UserError, match="train_share"):
    train.load(methods.FEDAVG_CONFIG(train_share=0.1), lambda labels, clients: np.arange(3))


def test_presets_of_table_1_differ_only_in_clients_and_length():
  pair = [cell.config("full") for cell in paper.TABLES["003.1.mnist"].cells]
  for name in ("data", "model", "norm", "partition", "batch_order", "batch_size", "lr", "momentum"):
    assert getattr(pair[0], name) == getattr(pair[1], name)
  assert (pair[0].clients, pair[1].clients) == (1, 10)
  assert pair[0].lr_boundaries == pair[1].lr_boundaries
