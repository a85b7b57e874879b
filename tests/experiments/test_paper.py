"""The runner of the papers' tables, and the tables as data."""

import csv
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from absl import flags
from experiments_helpers import ROOT

from experiments import app, build, paper, ssgd, tables, training
from experiments.flags import PaperFlags, SsgdFlags, define
from fedjax_norm import models

PAPERS = ROOT.parent / "shared" / "papers"
SCALES = ("smoke", "small", "full")
CELLS = {cell.name: cell for table in paper.TABLES.values() for cell in table.cells}
SIZES = {"digits": 1437, "cifar10": 50_000}
CHANNELS = {"digits": 1, "cifar10": 3}


def settled(cell: tables.Cell, scale: str):
  config = cell.config(scale)
  return build.in_rounds(config, config.clients, SIZES[config.data])


def by_label(name: str) -> dict[str, tables.Cell]:
  return {cell.label: cell for cell in paper.TABLES[name].cells}


# The tables as data.


@pytest.mark.skipif(not PAPERS.is_dir(), reason="needs the paper's text in ../shared/papers")
def test_paper_000_is_copied_rightly():
  text = next(PAPERS.glob("000_*.txt")).read_text()
  printed = {
    (number, row): (float(top1), float(top5))
    for number, body in re.findall(r"^TABLE (\d) .*\n\n.*\n((?:.+\t.+\n)+)", text, re.MULTILINE)
    for row, top1, top5 in re.findall(r"(.+)\t(.+)\t(.+)\n", body)
  }
  assert len(printed) == 4 + 5 + 7
  copied = {
    (number, cell.label.split(" = ")[-1]): cell.paper
    for number in "123"
    for cell in paper.TABLES[f"000.{number}"].cells
  }
  assert printed["1", "0.1"] == copied["1", "0.1"][::-1]  # printed the wrong way round
  del printed["1", "0.1"], copied["1", "0.1"]
  assert printed == copied


@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_is_a_run(scale):
  """The flags fit together at every scale, and at the two that run here the norm fits the model."""
  seen = set()
  for cell in CELLS.values():
    config = settled(cell, scale)
    cell.prepare(config)
    key = (config.model, config.norm, config.groups)
    if scale != "full" and key not in seen:
      seen.add(key)
      side, channels = config.image_size or 8, CHANNELS[config.data]
      models.create(config.model, build.make_norm(config), 10, (side, side, channels))


def test_a_name_is_a_run():
  """Cells with the same flags are one run, with other flags another."""
  rows = [cell for table in paper.TABLES.values() for cell in table.cells]
  runs = {(cell.name, settled(cell, "full")) for cell in rows}
  assert len(rows) == 36
  assert len(runs) == len({name for name, _ in runs}) == len({run for _, run in runs}) == 28
  shared = by_label("000.2")
  assert shared["GN"].name == by_label("000.3")["P = 32"].name
  assert shared["BN"].name == by_label("000.1")["R = 0.0"].name
  assert shared["LN"].name not in {cell.name for cell in paper.TABLES["000.3"].cells}


def test_every_claim_is_about_its_table():
  for name, table in paper.TABLES.items():
    assert table.claims
    for claim in table.claims:
      assert set(claim.labels) <= by_label(name).keys()
      assert isinstance(claim.margin(*map(float, range(len(claim.labels)))), float)


def test_paper_001s_setting():
  """The numbers of its text, at full scale."""
  for cell in paper.TABLES["001.2"].cells:
    config = settled(cell, "full")
    assert (config.clients * config.batch_size, config.lr) == (320, 0.1)
    assert config.partition == ("iid" if cell.label == "IID BN" else "classes")
  expected = {  # joint batch -> peak rate, epochs of warm-up, from
    "GN 128": (128, 0.1, 0, 0.0),
    "GN 1k": (1024, 0.8, 6, 0.1),
    "GN 2k": (2048, 1.6, 6, 0.1),
    "Fixup 128": (128, 0.1, 0, 0.0),
    "Fixup 1k": (1024, 0.1, 20, 0.01),
    "Fixup 2k": (2048, 0.1, 20, 0.01),
  }
  for label, cell in by_label("001.1").items():
    config = settled(cell, "full")
    joint = config.clients * config.batch_size
    epoch = -(-50_000 // joint)
    warmup = config.lr_warmup_rounds / epoch
    start = config.lr_warmup_from or 0.0
    assert (joint, pytest.approx(config.lr), warmup, start) == expected[label]
    assert (config.lr_schedule, config.rounds) == ("plateau", 100 * epoch)
  for label, cell in by_label("001.5").items():
    config = settled(cell, "full")
    assert label.endswith(f"every {config.local_steps}")
    assert (config.norm, config.batch_size, config.clients) == ("gn", 32, 10)
  for name in ("001.2", "001.1", "001.5"):
    for cell in paper.TABLES[name].cells:
      config = settled(cell, "full")
      assert (config.model, config.momentum, config.weight_decay) == ("resnet18", 0.9, 5e-4)


def test_scales_change_the_setting_alike():
  """At small scale the cells of a figure see the same number of images, at the same three times."""
  for table in paper.TABLES.values():
    seen = set()
    for cell in table.cells:
      config = settled(cell, "small")
      steps = getattr(config, "local_steps", None) or 1
      images = config.rounds * config.clients * config.batch_size * steps
      seen.add(images)
      if steps < 100:  # two rounds of it are all
        assert config.rounds == 3 * config.eval_every
    assert seen == {19_200}


# Claims.


@pytest.mark.parametrize(
  ("margin", "accuracies", "points"),
  [
    (tables.rising, (10, 12, 15), 2),
    (tables.rising, (10, 15, 14), -1),
    (tables.best, (10, 9, 7), 1),
    (tables.best, (10, 9, 12), -2),
    (tables.spread_above(3.0), (10, 15, 12), 2),
    (tables.below(15.0), (11,), 4),
    (tables.below(15.0), (80,), -65),
    (tables.near(5.0), (88, 90), 3),
    (tables.near(5.0), (80, 90), -5),
    (tables.near(5.0), (95, 90), 10),
  ],
)
def test_margins(margin, accuracies, points):
  assert margin(*accuracies) == points


def test_verdicts():
  claim = tables.Claim("b above a", ("a", "b"), tables.rising)
  assert paper.judge(claim, {"a": 40.0, "b": 45.5}) == "held by 5.50 points"
  assert paper.judge(claim, {"a": 45.5, "b": 40.0}) == "did not hold by 5.50 points"
  assert "cannot be told" in paper.judge(claim, {"a": math.nan, "b": 1.0})
  # Two standard errors of a difference at 50% on 10,000 images are 200 sqrt(2 / 4 / 10,000) = 1.41.
  assert paper.judge(claim, {"a": 49.3, "b": 50.7}, 10_000).endswith("errors of the test set")
  assert paper.judge(claim, {"a": 49.29, "b": 50.71}, 10_000) == "held by 1.42 points"


def test_what_is_odd_in_the_paper_is_seen():
  """By the paper's own figures: BN does not fall at every step of R, and the rest holds."""
  verdicts = {
    claim.text: paper.judge(claim, {cell.label: cell.paper[0] for cell in table.cells})
    for name, table in paper.TABLES.items()
    if name.startswith("000")
    for claim in table.claims
  }
  failed = {text for text, verdict in verdicts.items() if not verdict.startswith("held")}
  assert failed == {"local BN's accuracy falls at every step of R from 0.5 to 0"}
  assert len(verdicts) == 10


# The runner.


def start(capsys, **options):
  """(exit code, what was printed, what went wrong)."""
  options = PaperFlags(**{"workdir": "work", "progress": False, **options})
  return app.guard(lambda: paper.main(options)), *capsys.readouterr()


@pytest.fixture
def few(monkeypatch, tmp_path):
  """Two small tables that share a cell, with one that diverges."""
  monkeypatch.chdir(tmp_path)
  ratios, norms = by_label("000.1"), by_label("000.2")
  bad = norms["LN"]._replace(label="bad", options={"norm": "none", "lr": 1e30})
  claim = tables.Claim("R matters", ("R = 0.0", "R = 0.5"), tables.rising)
  left = paper.TABLES["000.1"]._replace(
    cells=(ratios["R = 0.0"], ratios["R = 0.5"]), claims=(claim,)
  )
  hopeless = tables.Claim("hopeless", ("BN", "bad"), tables.rising)
  right = paper.TABLES["000.2"]._replace(cells=(norms["BN"], bad), claims=(hopeless,))
  monkeypatch.setattr(paper, "TABLES", {"000.1": left, "000.2": right})
  runs = []

  def run_seed(config, task, program, path):
    runs.append(path.name)
    return run(config, task, program, path)

  run = training.run_seed
  monkeypatch.setattr(training, "run_seed", run_seed)
  return runs


def test_tables_are_run_told_and_gone_on_with(few, capsys):
  code, out, err = start(capsys)
  assert code == 0, err
  assert len(few) == len(set(few)) == 3  # of four rows, two are one run
  assert "infinite or not a number" in err
  shared, other = few[:2]
  summary = json.loads(Path("work", shared, "summary.json").read_text())
  top1 = f"{100 * summary['top1']:.2f}"
  report = Path("work/results.md").read_text()
  assert f"| BN | 88.15 | {top1} | 99.80 | {100 * summary['top5']:.2f} |" in report
  assert f"| R = 0.0 | 88.15 | {top1} | 99.87 |" in report
  assert "| bad | 90.88 | - | 99.74 | - |" in report
  assert "| hopeless | cannot be told, for a run diverged |" in report
  assert re.search(r"\| R matters \| (held|did not hold) by .* \| held by 7.17 points \|", report)
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

  # Another start runs nothing that is finished, and one that was not is gone on with.
  few.clear()
  Path("work", shared, "summary.json").unlink()
  code, _, _ = start(capsys)
  assert code == 0
  assert few[0] == shared
  assert len(few) == 2  # the other one is what diverged, and does so again
  assert Path("work/results.md").read_text() == report

  # A cell is the run of the binary with its flags written out.
  config = CELLS[other].config("smoke", host_devices=2, progress=False)
  given = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
    if getattr(config, field.name) != field.default
  }
  assert given["ratio"] == 0.5
  values = flags.FlagValues()
  define(SsgdFlags, values)
  values(["ssgd", *(f"--{name}={value}" for name, value in given.items()), "--workdir=binary"])
  assert app.execute(ssgd.main, SsgdFlags, values) == 0
  ours = json.loads(Path("work", other, "summary.json").read_text())
  theirs = json.loads(Path("binary", "summary.json").read_text())
  assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}

  # A folder holds one scale and one seed.
  capsys.readouterr()
  assert start(capsys, seed=1)[0] == 2
  Path("work/config.json").write_text('{"scale": "small", "seed": 0}')
  code, _, err = start(capsys)
  assert code == 2
  assert "small" in err
  assert err.count("\n") == 1


def test_a_picture_counts_images(tmp_path, monkeypatch):
  """Runs with other batches stand over each other by what they have seen, not by their rounds."""
  cells = paper.TABLES["001.4"].cells
  results = {
    cell.name: paper.Result(
      {}, [{"round": r, "examples": 100, "top1": 0.5} for r in range(k, 4 * k, k)], 10
    )
    for k, cell in enumerate(cells, 1)
  }
  drawn = []
  monkeypatch.setattr(paper.plots, "save", lambda figure, path: drawn.append((figure, path)))
  paper.draw(paper.TABLES["001.4"], results, tmp_path)
  ((figure, path),) = drawn
  (axes,) = figure.axes
  lines = {line.get_label(): line.get_xdata() for line in axes.lines}
  for cell in cells:
    assert jnp.array_equal(lines[cell.label], jnp.array([100, 200, 300]))
  assert axes.get_xlabel() == "training images seen"
  assert path == tmp_path / "001.4.png"


@pytest.mark.parametrize(
  ("options", "mentions"),
  [
    ({"tables": "000.9"}, "000.9.*001.5"),
    ({"tables": ""}, "tables"),
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
  done = subprocess.run(
    [sys.executable, "-m", "experiments.paper", "--scale=huge"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1
  assert "smoke" in done.stderr
