"""``experiments.paper``: runs the cells, resumes, records, prints and draws the results."""

import csv
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from helpers.binaries import ROOT
from helpers.paper_tables import by_label, invented, tables_of

from fedjax_norm.cli import app, methods, train
from fedjax_norm.cli.commands import paper
from fedjax_norm.cli.flags import define
from fedjax_norm.errors import UserError
from fedjax_norm.papers import figures, plan, report
from fedjax_norm.papers.paper_flags import PaperFlags
from fedjax_norm.papers.registry import TABLES, choose, choose_cells
from fedjax_norm.papers.tables import Claim
from fedjax_norm.study.contender import Contender, SeedRun
from fedjax_norm.study.verdicts import rising


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  """The tests have more devices than the command asks for, and each run uses one."""
  monkeypatch.setattr(paper.client_mapping, "use_host_devices", lambda count: None)


def start(capsys, **options):
  """Runs the command; returns (exit code, stdout, stderr)."""
  given = {"table": "all", "workdir": "work", "progress": False, "workers": 1, "seeds": 2}
  return app.guard(lambda: paper.main(PaperFlags(**given | options))), *capsys.readouterr()


@pytest.fixture
def started_runs(monkeypatch, tmp_path):
  """Names of the started runs; two small tables share a cell and have one that diverges."""
  monkeypatch.chdir(tmp_path)
  ratios, norms = by_label("000.1"), by_label("000.2")
  hopeless = {"norm": "none", "lr": 1e30, "weight_decay": 1e30}
  bad = norms["LN"]._replace(label="bad", options=hopeless)
  left = TABLES["000.1"]._replace(
    cells=(ratios["R = 0.0"], ratios["R = 0.5"]),
    claims=(Claim("R matters", rising("R = 0.0", "R = 0.5")),),
  )
  right = TABLES["000.2"]._replace(
    cells=(norms["BN"], bad), claims=(Claim("hopeless", rising("BN", "bad")),)
  )
  kept = dict(TABLES)
  TABLES.clear()
  TABLES.update({"000.1": left, "000.2": right})
  runs = []

  def run_seed(config, task, program, path, *more):
    runs.append(f"{path.parent.name}/{path.name}")
    return run(config, task, program, path, *more)

  run = train.run_seed
  monkeypatch.setattr(train, "run_seed", run_seed)
  yield runs
  TABLES.clear()
  TABLES.update(kept)  # in their order


@pytest.mark.long
def test_tables_are_run_recorded_and_resumed(started_runs, capsys):
  # Nothing fits into no time, and what is missing is said.
  code, out, err = start(capsys, minutes=0.0, record="kept/results")
  assert code == 0, err
  assert started_runs == []
  assert "3 of 3 cells are not finished; the same command goes on." in out
  assert not list(Path("kept/results").glob("*.json"))

  code, out, err = start(capsys, record="kept/results")
  assert code == 0, err
  shared = "ssgd_paper000-norm=bn-ratio=0.0"
  assert started_runs[:3] == [
    f"{shared}/seed_0", f"{shared}/seed_1", "ssgd_paper000-norm=bn-ratio=0.5/seed_0"
  ]  # fmt: skip
  assert len(started_runs) == 5  # two of the four cells share runs, and one diverges
  text = Path("work/results.md").read_text()
  top1 = [
    100 * json.loads(Path("work/runs", shared, f"seed_{k}", "summary.json").read_text())["top1"]
    for k in (0, 1)
  ]
  shown = f"{np.mean(top1):.2f} ± {np.std(top1, ddof=1):.2f}"
  assert f"| BN | 88.15 | {shown} | 99.80 |" in text
  assert f"| R = 0.0 | 88.15 | {shown} | 99.87 |" in text
  assert "| bad | 90.88 | diverged | 99.74 | diverged |" in text
  assert re.search(r"- bad: the loss became infinite or not a number between rounds", text)
  assert "| hopeless | undecided: bad diverged |" in text
  assert re.search(r"\| R matters \| undecided: runs at scale smoke .* \| held \(\+7.17 ", text)
  assert out.count("## Paper 000") == 2
  rows = list(csv.DictReader(Path("work/results.csv").read_text().splitlines()))
  assert [(row["cell"], row["seed"]) for row in rows] == [
    ("R = 0.0", "0"), ("R = 0.0", "1"), ("R = 0.5", "0"), ("R = 0.5", "1"),
    ("BN", "0"), ("BN", "1"), ("bad", ""),
  ]  # fmt: skip
  assert float(rows[4]["top1"]) == pytest.approx(top1[0], abs=1e-4)
  assert (float(rows[0]["paper_top1"]), float(rows[0]["paper_top5"])) == (88.15, 99.87)
  assert all(Path("work", f"{name}.png").read_bytes()[1:4] == b"PNG" for name in TABLES)

  # The record is all that RESULTS.md is made of.
  assert "recorded: 000.1, 000.2; written:" in out
  records = paper.read_records(Path("kept/results"))
  assert Path("kept/RESULTS.md").read_text() == report.all_results(TABLES, records)
  assert [one.seeds for one in records] == [2, 2]
  assert records[0].made["command"] == (
    "python -m experiments.paper --table=000.1 --scale=smoke --seeds=2"
  )

  # A second start trains nothing again; more seeds are added, and recorded cells are never replaced
  # by those with fewer seeds.
  started_runs.clear()
  assert start(capsys)[0] == 0
  assert started_runs == []
  code, out, _ = start(capsys, table="000.1", seeds=3, record="kept/results")
  assert code == 0
  assert {name.rpartition("/")[2] for name in started_runs[:4]} >= {"seed_2"}
  assert "± " in out
  code, _, err = start(capsys, seeds=2)
  assert (code, err.count("\n")) == (2, 1)
  assert "--seeds=3, not 2" in err
  code, out, _ = start(capsys, table="000.1", workdir="other", record="kept/results")
  assert code == 0
  assert "of kept/results/000.1.smoke.json stay, because they have runs not made here" in out
  assert "recorded: nothing new" in out

  # A folder has one scale and one first seed.
  code, _, err = start(capsys, seed=1, seeds=3)
  assert (code, err.count("\n")) == (2, 1)
  assert "--seed=0, not 1" in err


def test_cells_are_selected_by_their_labels():
  tables = choose("000.1,004.fig5")
  labels = [cell.label for cell in choose_cells(tables, "gn, BSP; R = 0.5;R = 0.5").values()]
  assert labels == ["GN, BSP, IID", "GN, BSP, non-IID", "R = 0.5"]
  assert len(choose_cells(tables, None)) == 4 + 16
  words = paper._command(TABLES["000.1"], PaperFlags(cells="R = 0.5"))
  assert words == "python -m experiments.paper --table=000.1 --scale=smoke --cells='R = 0.5'"


@pytest.mark.long
def test_a_cell_equals_a_run_of_its_binary(started_runs, capsys):
  assert start(capsys, table="000.1", cells="0.5", seeds=1)[0] == 0
  assert started_runs == ["runs/ssgd_paper000-norm=bn-ratio=0.5"]
  cell = by_label("000.1")["R = 0.5"]
  values = flags.FlagValues()
  define(methods.SSGD_CONFIG, values)
  preset = ROOT / "fedjax_norm/presets/ssgd_paper000.flags"
  words = [line for line in preset.read_text().splitlines() if "--epochs" not in line]
  words = [word for word in words if word.startswith("--")]
  words += ["--norm=bn", "--ratio=0.5", "--rounds=4", "--eval_every=2", "--batch_size=8"]
  words += ["--data=digits", "--model=tiny", "--augment=none", "--lr_schedule=constant"]
  values(["ssgd", *words, "--host_devices=1", "--noprogress", "--workdir=binary"])
  assert app.execute(train.run, methods.SSGD_CONFIG, values) == 0
  ours = json.loads(Path("work/runs", cell.name, "summary.json").read_text())
  theirs = json.loads(Path("binary", "summary.json").read_text())
  assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def curve(rows):
  return SeedRun(0, Path("run"), rows, {"top1": rows[-1]["top1"], "seconds": 1.0})


def test_learning_curves_are_drawn_against_images():
  """Runs with different batch sizes are compared by training images, not by rounds."""
  table = TABLES["001.4"]
  contenders = {
    cell.name: Contender(
      cell.name,
      "",
      {},
      (curve([{"round": r, "examples": 100, "top1": 0.5} for r in range(k, 4 * k, k)]),),
      "done",
    )
    for k, cell in enumerate(table.cells, 1)
  }
  figure, points = figures.draw(table, invented(table, lambda _: 50.0), contenders)
  (axes,) = figure.axes
  lines = {line.get_label(): line.get_xdata() for line in axes.lines}
  for cell in table.cells:
    assert jnp.array_equal(lines[cell.label], jnp.array([100, 200, 300]))
  assert axes.get_xlabel() == "training images seen"
  assert points is None
  nothing = {name: one._replace(runs=()) for name, one in contenders.items()}
  assert figures.draw(table, invented(table, lambda _: None), nothing) == (None, None)


def test_bars_have_a_group_for_each_algorithm():
  table = TABLES["004.fig1.lenet"]
  top1 = {cell.label: 70.0 - i for i, cell in enumerate(table.cells)}
  some = {
    cell.name: Contender("", "", {}, (curve([{"top1": 0.5}]),), "done") for cell in table.cells
  }
  result = invented(table, {**top1, "Gaia, non-IID": None}.get)
  (axes,) = figures.draw(table, result, some)[0].axes
  assert [text.get_text() for text in axes.get_xticklabels()] == ["BSP", "Gaia", "FedAvg", "DGC"]
  heights = [bar.get_height() for bar in axes.patches]
  assert heights == pytest.approx([70.3, 68.3, 66.3, 64.3, 69.3, 0, 65.3, 63.3])
  bars = axes.containers[0].lines[2][0].get_segments()
  assert [high - low for (_, low), (_, high) in bars] == pytest.approx([0.6] * 4)  # of 0.3
  table = TABLES["002.norms"]
  found = {table.cells[0].name: next(iter(some.values()))}
  (axes,) = figures.draw(table, invented(table, lambda _: 50.0), found)[0].axes
  assert [bar.get_height() for bar in axes.patches] == pytest.approx([50.3] * 6)
  table = TABLES["004.fig8"]
  result = invented(table, lambda _: 70.0, bytes=lambda label: 60.0 if "Scout" in label else 600.0)
  some = {cell.name: next(iter(some.values())) for cell in table.cells}
  (axes,) = figures.draw(table, result, some)[0].axes
  assert [bar.get_height() for bar in axes.patches] == [10, 10, 10, 1, 1, 1]


def test_a_name_selects_all_tables_that_begin_with_it():
  def names(text):
    return [table.name for table in choose(text)]

  models = ["alexnet", "googlenet", "lenet", "resnet20"]
  assert names("004.6") == [f"004.6.{model}" for model in models]
  assert names("004.fig1,000.1") == [*(f"004.fig1.{model}" for model in models), "000.1"]
  assert names("004.8.lenet") == ["004.8.lenet"]
  assert names("all") == list(TABLES)
  assert names("001") == [table.name for table in tables_of("001")]
  assert names("004.fig1.lenet,004.fig1")[0] == "004.fig1.lenet"


def test_the_list_has_a_line_for_each_table(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, out, _ = start(capsys, list=True, table="000,004.fig5,001")
  assert code == 0
  lines = out.splitlines()[2:]
  names = [line.split()[0] for line in lines[:5]]
  assert names == ["000.1", "000.2", "000.3", "000.cases", "004.fig5"]
  assert re.match(r"000.1 +4 +2 +2 min 40 s +Paper 000, table 1", lines[0])
  assert lines[-1].endswith(
    "at scale smoke with 2 seeds on a CPU core, roughly; tables share cells"
  )
  _, out, _ = start(capsys, list=True, table="000.1", cells="0.5")
  assert re.search(r"000.1 +1 +2 +40.. s +Paper", out)
  assert "  cells: R = 0.5\n  claims:\n  - local BN's accuracy falls at every step" in out
  assert not Path("work").exists()


def test_data_files_are_read_from_data_dir():
  data = {name: TABLES[name].cells[0].config("full").data for name in ("000.1", "004.fig3")}
  data["004.fig2"] = TABLES["004.fig2"].cells[0].config("full").data
  assert {name: plan.with_data_dir(one, "/data") for name, one in data.items()} == {
    "000.1": {"data_dir": "/data"},
    "004.fig3": {"data": "folder:/data/faces"},
    "004.fig2": {"data": "csv:/data/flickr_mammal.csv"},
  }
  for name in ("004.fig3", "004.fig2"):
    with pytest.raises(UserError, match="data_dir"):
      plan.with_data_dir(data[name], None)


@pytest.mark.parametrize(
  ("options", "mentions"),
  [
    ({"table": "000.9"}, "000.9.*did you mean 004.9"),
    ({"table": "x"}, "'x'.*--list"),
    ({"table": ""}, "--table"),
    ({"table": None}, "set --table.*--list"),
    ({"table": "004.fig"}, "004.fig'.*before a dot"),
    ({"table": "000.1", "cells": "R = 0.7"}, "R = 0.7.*'R = 0.5'"),
    ({"scale": "small"}, "data_dir"),
    ({"scale": "full", "data_dir": "nowhere"}, "nowhere"),
    ({"data_dir": "."}, "data_dir"),
    ({"workdir": "file"}, "file"),
    ({"workdir": "other"}, "other"),
    ({"seed": -1}, "seed"),
    ({"seeds": 0}, "seeds"),
    ({"minutes": -1.0}, "minutes"),
    ({"record": "file"}, "--record=file"),
    ({"workers": 0}, "workers"),
  ],
)
def test_bad_input_is_one_sentence(options, mentions, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Path("file").write_text("a file")
  Path("other").mkdir()
  Path("other/note.txt").write_text("somebody's")
  code, out, err = start(capsys, **options)
  assert code == 2, (code, out, err)
  assert err.count("\n") == 1
  assert re.search(mentions, err), err
  assert not Path("work").exists()


def test_an_unknown_scale_is_one_sentence():
  values = flags.FlagValues()
  define(PaperFlags, values)
  with pytest.raises(flags.Error, match=r"--scale=huge.*smoke"):  # ``app.run`` prints it
    values(["paper", "--scale=huge"])
