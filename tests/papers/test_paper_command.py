"""``experiments.paper``: runs the cells, prints and draws the results."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from absl import flags
from helpers.paper_tables import CELLS, by_label, tables_of

from fedjax_norm.cli import app, methods, train
from fedjax_norm.cli.commands import paper
from fedjax_norm.cli.flags import define
from fedjax_norm.errors import UserError
from fedjax_norm.papers import tables
from fedjax_norm.papers.paper_flags import PaperFlags


def start(capsys, **options):
  """Runs the command; returns (exit code, stdout, stderr)."""
  options = PaperFlags(**{"workdir": "work", "progress": False, **options})
  return app.guard(lambda: paper.main(options)), *capsys.readouterr()


@pytest.fixture
def started_runs(monkeypatch, tmp_path):
  """Names of the started runs; two small tables share a cell and have one that diverges."""
  monkeypatch.chdir(tmp_path)
  ratios, norms = by_label("000.1"), by_label("000.2")
  bad = norms["LN"]._replace(label="bad", options={"norm": "none", "lr": 1e30, "weight_decay": 1e30})
  claim = tables.Claim("R matters", ("R = 0.0", "R = 0.5"), tables.rising)
  left = paper.TABLES["000.1"]._replace(
    cells=(ratios["R = 0.0"], ratios["R = 0.5"]), claims=(claim,)
  )
  hopeless = tables.Claim("hopeless", ("BN", "bad"), tables.rising)
  right = paper.TABLES["000.2"]._replace(cells=(norms["BN"], bad), claims=(hopeless,))
  monkeypatch.setattr(paper, "TABLES", {"000.1": left, "000.2": right})
  runs = []

  def run_seed(config, task, program, path, *more):
    runs.append(path.name)
    return run(config, task, program, path, *more)

  run = train.run_seed
  monkeypatch.setattr(train, "run_seed", run_seed)
  return runs


@pytest.mark.long
def test_tables_are_run_reported_and_resumed(started_runs, capsys):
  code, out, err = start(capsys)
  assert code == 0, err
  assert len(started_runs) == len(set(started_runs)) == 3  # two of the four rows share a run
  assert "infinite or not a number" in err
  shared, other = started_runs[:2]
  summary = json.loads(Path("work", shared, "summary.json").read_text())
  top1 = f"{100 * summary['top1']:.2f}"
  report = Path("work/results.md").read_text()
  assert f"| BN | 88.15 | {top1} | 99.80 | {100 * summary['top5']:.2f} |" in report
  assert f"| R = 0.0 | 88.15 | {top1} | 99.87 |" in report
  assert "| bad | 90.88 | - | 99.74 | - |" in report
  assert "| hopeless | undecided: a run diverged |" in report
  assert re.search(r"\| R matters \| (holds|does not hold) by .*\| holds by 7.17 points \|", report)
  assert f"000.2 BN: {top1} / " in out
  assert report.strip() in out
  for note in (*paper.TABLES["000.1"].notes, *paper.TABLES["000.2"].notes):
    assert note in report
  with open("work/results.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["cell"] for row in rows] == ["R = 0.0", "R = 0.5", "BN", "bad"]
  assert float(rows[0]["top1"]) == 100 * summary["top1"] == float(rows[2]["top1"])
  assert (float(rows[0]["paper_top1"]), float(rows[0]["paper_top5"])) == (88.15, 99.87)
  assert rows[3]["top1"] == ""
  assert all(Path("work", f"{name}.png").read_bytes()[1:4] == b"PNG" for name in paper.TABLES)

  # A second start skips finished runs and resumes unfinished ones.
  started_runs.clear()
  Path("work", shared, "summary.json").unlink()
  code, _, _ = start(capsys)
  assert code == 0
  assert started_runs[0] == shared
  assert len(started_runs) == 2  # the other one diverges again
  assert Path("work/results.md").read_text() == report

  # A cell equals a run of the binary with the same flags.
  config = CELLS[other].config("smoke", host_devices=2, progress=False)
  changed = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
    if getattr(config, field.name) != field.default
  }
  assert changed["ratio"] == 0.5
  values = flags.FlagValues()
  define(methods.SSGD_CONFIG, values)
  values(["ssgd", *(f"--{name}={value}" for name, value in changed.items()), "--workdir=binary"])
  assert app.execute(train.run, methods.SSGD_CONFIG, values) == 0
  ours = json.loads(Path("work", other, "summary.json").read_text())
  theirs = json.loads(Path("binary", "summary.json").read_text())
  assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}

  # A folder has one scale and one seed.
  capsys.readouterr()
  assert start(capsys, seed=1)[0] == 2
  saved = Path("work/config.json").read_text()
  Path("work/config.json").write_text(saved.replace("smoke", "small"))
  code, _, err = start(capsys)
  assert code == 2
  assert "small" in err
  assert err.count("\n") == 1


def test_learning_curves_are_drawn_against_images(tmp_path, monkeypatch):
  """Runs with different batch sizes are compared by training images, not by rounds."""
  cells = paper.TABLES["001.4"].cells
  results = {
    cell.name: paper.Result(
      {}, [{"round": r, "examples": 100, "top1": 0.5} for r in range(k, 4 * k, k)], 10
    )
    for k, cell in enumerate(cells, 1)
  }
  drawn = []
  monkeypatch.setattr(paper.base, "save", lambda figure, path: drawn.append((figure, path)))
  paper.draw(paper.TABLES["001.4"], results, tmp_path)
  ((figure, path),) = drawn
  (axes,) = figure.axes
  lines = {line.get_label(): line.get_xdata() for line in axes.lines}
  for cell in cells:
    assert jnp.array_equal(lines[cell.label], jnp.array([100, 200, 300]))
  assert axes.get_xlabel() == "training images seen"
  assert path == tmp_path / "001.4.png"


def test_losses_savings_and_bars(tmp_path, monkeypatch):
  """Invented results of tables of paper 004 are rendered and drawn."""
  table = paper.TABLES["004.fig1.lenet"]
  top1 = {cell.label: 70.0 - i for i, cell in enumerate(table.cells)}
  results = {cell.name: result(top1[cell.label], 10) for cell in table.cells}
  text = paper.render(table, "small", results)
  assert "| BSP, IID | 77.40 | 70.00 | - | - |" in text
  assert "| Gaia, non-IID | 10.00 | 67.00 | 67.40 | 3.00 |" in text
  assert "| Gaia loses on non-IID data | holds by 1.00 points | holds by 65.40 points |" in text
  drawn = {}
  monkeypatch.setattr(paper.base, "save", lambda figure, path: drawn.update({path.name: figure}))
  results[table.cells[3].name] = paper.Result(None, [], 10)
  paper.draw(table, results, tmp_path)
  (axes,) = drawn.pop(f"{table.name}.png").axes
  assert [text.get_text() for text in axes.get_xticklabels()] == ["BSP", "Gaia", "FedAvg", "DGC"]
  heights = [bar.get_height() for bar in axes.patches]
  assert heights == [70, 68, 66, 64, 69, 0, 65, 63]

  table = paper.TABLES["004.fig8"]
  sent = {"BSP": 1200, "SkewScout": 60, "T_0 = 50%": 30}
  results = {}
  for cell in table.cells:
    degree, _, run = cell.label.partition(", ")
    lost = 20 if degree == "100%" and run == "T_0 = 50%" else 0
    results[cell.name] = result(70.0 - lost, sent.get(run, 300))
  savings = paper.our_values(table, results, "saving")
  assert savings["20%, SkewScout"] == 20.0
  assert savings["20%, Oracle"] == 40.0
  assert savings["100%, Oracle"] == 4.0
  text = paper.render(table, "small", results)
  assert "| 60% | 70.00 | 1.20 kB | 40.0x (T_0 = 50%) | 70.00 | 20.0x | 2.0x of Oracle |" in text
  assert (
    "at most 1.5 times the Oracle's bytes | does not hold: 20.00, 40.00 times | not in the text |"
    in text
  )
  paper.draw(table, results, tmp_path)
  (axes,) = drawn[f"{table.name}.png"].axes
  assert [bar.get_height() for bar in axes.patches] == [20, 20, 20, 40, 40, 4]


def result(top1: float, sent: int) -> paper.Result:
  return paper.Result({"top1": top1 / 100, "bytes_up": 0, "bytes_down": sent}, [], 10_000)


def test_a_name_selects_all_tables_that_begin_with_it():
  def names(text):
    return [table.name for table in paper.choose(text)]

  models = ["alexnet", "googlenet", "lenet", "resnet20"]
  assert names("004.6") == [f"004.6.{model}" for model in models]
  assert names("004.fig1,000.1") == [*(f"004.fig1.{model}" for model in models), "000.1"]
  assert names("004.8.lenet") == ["004.8.lenet"]
  assert names("all") == list(paper.TABLES)
  assert names("001") == [table.name for table in tables_of("001")]
  assert names("004.fig1.lenet,004.fig1")[0] == "004.fig1.lenet"


def test_data_files_are_read_from_data_dir():
  cells = {name: paper.TABLES[name].cells[0] for name in ("000.1", "004.fig3", "004.fig2")}
  located = {
    name: paper.with_data_dir(cell.config("full"), "/data") for name, cell in cells.items()
  }
  shown = {name: (config.data, config.data_dir) for name, config in located.items()}
  assert shown == {
    "000.1": ("cifar10", "/data"),
    "004.fig3": ("folder:/data/faces", None),
    "004.fig2": ("csv:/data/flickr_mammal.csv", None),
  }
  for name in ("004.fig3", "004.fig2"):
    with pytest.raises(UserError, match="data_dir"):
      paper.with_data_dir(cells[name].config("full"), None)


@pytest.mark.parametrize(
  ("options", "mentions"),
  [
    ({"tables": "000.9"}, "000.9.*001.5"),
    ({"tables": ""}, "tables"),
    ({"tables": "004.fig"}, "004.fig'.*before a dot"),
    ({"scale": "small"}, "data_dir"),
    ({"scale": "full", "data_dir": "nowhere"}, "nowhere"),
    ({"data_dir": "."}, "data_dir"),
    ({"workdir": "file"}, "file"),
    ({"workdir": "other"}, "other"),
    ({"seed": -1}, "seed"),
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
