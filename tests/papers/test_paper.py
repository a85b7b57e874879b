"""The runner of the papers' tables, and the tables as data."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from absl import flags
from helpers.binaries import ROOT

from fedjax_norm import models
from fedjax_norm.cli import app, methods, train
from fedjax_norm.cli.commands import paper
from fedjax_norm.cli.flags import define
from fedjax_norm.errors import UserError
from fedjax_norm.papers import paper_004_thetas, tables
from fedjax_norm.papers.options import PaperFlags

PAPERS = ROOT.parent / "shared" / "papers"
SCALES = ("smoke", "small", "full")
CELLS = {cell.name: cell for table in paper.TABLES.values() for cell in table.cells}
SIZES = {"digits": 1437, "cifar10": 50_000, "tiny_imagenet": 100_000}
CHANNELS = {"digits": 1, "identities": 1, "mnist": 1}
SIDES = {"mnist": 28}


def settled(cell: tables.Cell, scale: str):
  config = cell.config(scale)
  return config.in_rounds(config.clients, SIZES.get(config.data, 10_000))


def of_papers(*papers: str) -> list[tables.Table]:
  return [table for name, table in paper.TABLES.items() if name[:3] in papers]


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
    train.check(config)
    key = (config.model, config.norm, config.groups)
    if scale != "full" and key not in seen:
      seen.add(key)
      channels = CHANNELS.get(config.data.partition(":")[0], 3)
      side = config.image_size or SIDES.get(config.data, 16 if config.task == "verification" else 8)
      models.create(config.model, config.make_norm(1), 10, (side, side, channels))


def test_a_name_is_a_run():
  """Cells with the same flags are one run, with other flags another."""
  counts = (("000", "001"), 36, 28), (("003",), 32, 25), (("004",), 332, 259)
  for papers, count, different in counts:
    rows = [cell for table in of_papers(*papers) for cell in table.cells]
    runs = {(cell.name, settled(cell, "full")) for cell in rows}
    assert len(rows) == count
    assert len(runs) == len({name for name, _ in runs}) == len({run for _, run in runs})
    assert len(runs) == different
    for scale in SCALES:  # a folder has one run
      assert len({(cell.name, settled(cell, scale)) for cell in rows}) == different
  shared = by_label("000.2")
  assert shared["GN"].name == by_label("000.3")["P = 32"].name
  assert shared["BN"].name == by_label("000.1")["R = 0.0"].name
  assert shared["LN"].name not in {cell.name for cell in paper.TABLES["000.3"].cells}


def test_every_claim_is_about_its_table():
  for name, table in paper.TABLES.items():
    assert table.claims
    cells = by_label(name)
    assert len(cells) == len(table.cells)
    assert all(cell.base is None or cell.base in cells for cell in table.cells)
    known = {
      "top1": cells.keys(),
      "loss": {label for label, cell in cells.items() if cell.base},
      "client_flops": cells.keys(),
      "sent": cells.keys(),
      "saving": {f"{d.label}, {who}" for d in table.degrees for who in ("SkewScout", "Oracle")},
    }
    for claim in table.claims:
      assert set(claim.labels) <= known[claim.measure]
      assert isinstance(claim.margin(*map(float, range(1, len(claim.labels) + 1))), float)


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
  for table in of_papers("000", "001"):
    seen = set()
    for cell in table.cells:
      config = settled(cell, "small")
      steps = getattr(config, "local_steps", None) or 1
      images = config.rounds * config.clients * config.batch_size * steps
      seen.add(images)
      if steps < 100:  # two rounds of it are all
        assert config.rounds == 3 * config.eval_every
    assert seen == {19_200}


@pytest.mark.skipif(not PAPERS.is_dir(), reason="needs the paper's text in ../shared/papers")
def test_paper_004_is_copied_rightly():
  text = next(PAPERS.glob("004_*.txt")).read_text()
  for number, sign in ((6, r"T_0"), (7, r"Iter_\{Local\}"), (8, r"E_\{warm\}")):
    body = text[: text.index(f"\nTable {number}. CIFAR-10")].rpartition("Configuration\t")[2]
    found = re.findall(rf"^(BSP|\$?{sign} = [^\t]*)\t(.*)$", body, re.MULTILINE)
    printed = [[float(share[:-1]) for share in row.split("\t")] for _, row in found]
    assert len(printed) == (6 if number == 8 else 8)
    values = [float(re.sub(r"[^\d]", "", name.partition("=")[2])) for name, _ in found[1:]]
    for place, model in enumerate(paper_004_thetas.MODELS):
      cells = paper.TABLES[f"004.{number}.{model}"].cells
      assert [c.paper[0] for c in cells] == [
        top1 for row in printed for top1 in row[2 * place : 2 * place + 2]
      ]
      name, times = {
        6: ("threshold", 100),
        7: ("local_steps", 1),
        8: ("sparsity_warmup_rounds", 1 / 500),
      }[number]
      got = [times * getattr(settled(cell, "full"), name) for cell in cells[2::2]]
      assert got == pytest.approx(values)
  last = text[text.index("BatchNorm\t\tBatchReNorm") : text.index("\nTable 9.")]
  assert [cell.paper[0] for cell in paper.TABLES["004.9"].cells] == [
    float(share) for share in re.findall(r"([\d.]+)%", last)
  ]


def test_paper_004s_setting():
  """The numbers of its tables 2 to 5, at full scale."""
  expected = {  # batch, rate, decay, epochs, where the rate falls, power
    "cifar10_alexnet": (20, 0.0002, 5e-4, 128, (64, 96), None),
    "cifar10_googlenet": (20, 0.002, 5e-4, 128, (64, 96), None),
    "cifar10_lenet": (20, 0.002, 5e-4, 128, (64, 96), None),
    "cifar10_resnet20": (20, 0.002, 5e-4, 128, (64, 96), None),
    "imagenet_googlenet": (32, 0.0025, 2e-4, 60, None, 0.5),
    "imagenet_resnet10": (32, 0.00125, 1e-4, 64, None, 1.0),
    "face": (64, 0.025, 5e-4, 7, (4, 6), None),
    "flickr_5": (32, 0.004, 2e-4, 55, None, 0.5),
    "flickr_13": (32, 0.004, 2e-4, 55, None, 0.5),
  }
  seen = set()
  for table in of_papers("004"):
    for cell in table.cells:
      config = settled(cell, "full")
      preset = cell.preset.removeprefix("decentralized_")
      seen.add(preset)
      epoch = -(-SIZES.get(config.data, 10_000) // (config.clients * config.batch_size))
      falls = tuple(at / epoch for at in config.lr_boundaries) or None
      power = config.lr_power if config.lr_schedule == "polynomial" else None
      shown = config.batch_size, config.lr, config.weight_decay, config.rounds / epoch
      assert (*shown, falls, power) == expected[preset]
      assert config.momentum == 0.9
      column = cell.label.rpartition(", ")[2]
      if column in ("IID", "non-IID"):
        assert (config.partition == "iid") == (column == "IID")
  assert seen == expected.keys()
  thetas = {
    "004.fig1.lenet": (0.1, 20, 8),
    "004.fig5": (0.1, 20, 8),
    "004.fig6": (0.1, 20, 8),
    "004.fig19": (0.1, 20, 8),
    "004.fig2": (0.1, 20, None),
    "004.fig20": (0.1, 20, None),
    "004.fig3": (0.2, 50, None),
    "004.fig18.resnet10": (0.4, 200, 4),
  }
  for name, (threshold, steps, warm) in thetas.items():
    given = [cell.config("full") for cell in paper.TABLES[name].cells]
    flags_of = ("threshold", "local_steps", "sparsity_warmup_epochs")
    found = [{getattr(c, f, None) for c in given} - {None} for f in flags_of]
    assert found == [{threshold}, {steps}, {warm} - {None}]
  sizes = {config.clients for config in (c.config("full") for c in paper.TABLES["004.fig19"].cells)}
  assert sizes == {5, 10}
  fractions = {
    f"{cell.config('full').fraction or 1:.0%}": cell.label.rpartition(", ")[2]
    for cell in paper.TABLES["004.fig6"].cells[1:]
  }
  assert fractions == {share: share for share in ("20%", "40%", "60%", "80%", "100%")}


def test_paper_004_at_small_scale_takes_joint_steps_alike():
  """What adds up the partitions' updates has a K-th of the rate of what averages models."""
  for table in of_papers("004"):
    by_preset: dict[str, set] = {}
    for cell in table.cells:
      config = settled(cell, "small")
      joint = config.lr * (1 if config.algorithm == "fedavg" else config.clients)
      shown = round(joint, 9), config.rounds, config.model, config.data, config.image_size
      by_preset.setdefault(cell.preset, set()).add(shown)
      if config.lr_boundaries:
        full = settled(cell, "full")
        for ours, theirs in zip(config.lr_boundaries, full.lr_boundaries, strict=True):
          assert ours / config.rounds == pytest.approx(theirs / full.rounds, abs=0.01)
    assert all(len(shown) == 1 for shown in by_preset.values())


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
    (tables.falling, (15, 12, 10), 2),
    (tables.falling, (15, 10, 12), -2),
    (tables.least(2.0), (5, 3, 9), 1),
    (tables.least(2.0), (5, 1, 9), -1),
    (tables.alike(2.0), (90, 91), 1),
    (tables.alike(2.0), (91, 88), -1),
    (tables.all_near(2.0), (90, 95, 89), 1),
    (tables.all_near(2.0), (90, 95, 80), -8),
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
  assert paper.judge(claim, {"a": 49.3}) == "not in the text"
  saving = claim._replace(measure="saving")
  assert paper.judge(saving, {"a": 4.0, "b": 5.5}, 10_000) == "held: 4.00, 5.50 times"
  assert "accuracy is lost" in paper.judge(saving, {"a": math.nan, "b": 5.5})


def test_what_is_odd_in_the_paper_is_seen():
  """By the paper's own figures: BN does not fall at every step of R, and the rest holds."""
  verdicts = {
    claim.text: paper.judge(claim, {cell.label: cell.paper[0] for cell in table.cells})
    for table in of_papers("000")
    for claim in table.claims
  }
  failed = {text for text, verdict in verdicts.items() if not verdict.startswith("held")}
  assert failed == {"local BN's accuracy falls at every step of R from 0.5 to 0"}
  assert len(verdicts) == 10


def test_what_paper_004s_own_figures_say():
  """Of the claims about figure 1, those that its own numbers do not bear out; and losses."""
  failed = {
    (table.name.rpartition(".")[2], claim.text)
    for table in of_papers("004")
    if table.name.startswith("004.fig1.")
    for claim in table.claims
    if not paper.judge(claim, table.papers(claim.measure)).startswith("held")
  }
  keeps = "{} keeps BSP's accuracy on IID data".format
  assert failed == {
    ("googlenet", keeps("FedAvg")),
    ("resnet20", keeps("FedAvg")),
    ("resnet20", keeps("DGC")),
  }
  losses = paper.TABLES["004.fig5"].papers("loss")
  assert losses["BN, DGC, non-IID"] == pytest.approx(68.9)
  assert paper.TABLES["004.9"].papers("loss") == pytest.approx(
    {"BN, non-IID": 13.4, "BatchReNorm, non-IID": 2.8}
  )
  # A printed loss comes before one that follows from printed accuracies.
  assert paper.TABLES["004.fig19"].papers("loss")["K = 5, FedAvg, non-IID"] == 17.0


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

  run = train.run_seed
  monkeypatch.setattr(train, "run_seed", run_seed)
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
  define(methods.SSGD_CONFIG, values)
  values(["ssgd", *(f"--{name}={value}" for name, value in given.items()), "--workdir=binary"])
  assert app.execute(train.run, methods.SSGD_CONFIG, values) == 0
  ours = json.loads(Path("work", other, "summary.json").read_text())
  theirs = json.loads(Path("binary", "summary.json").read_text())
  assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}

  # A folder holds one scale and one seed.
  capsys.readouterr()
  assert start(capsys, seed=1)[0] == 2
  saved = Path("work/config.json").read_text()
  Path("work/config.json").write_text(saved.replace("smoke", "small"))
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


def test_losses_savings_and_bars(tmp_path, monkeypatch):
  """A table of paper 004 from results that are made up, told and drawn."""
  table = paper.TABLES["004.fig1.lenet"]
  top1 = {cell.label: 70.0 - i for i, cell in enumerate(table.cells)}
  results = {cell.name: ended(top1[cell.label], 10) for cell in table.cells}
  told = paper.render(table, "small", results)
  assert "| BSP, IID | 77.40 | 70.00 | - | - |" in told
  assert "| Gaia, non-IID | 10.00 | 67.00 | 67.40 | 3.00 |" in told
  assert "| Gaia loses on non-IID data | held by 1.00 points | held by 65.40 points |" in told
  drawn = {}
  monkeypatch.setattr(paper.plots, "save", lambda figure, path: drawn.update({path.name: figure}))
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
    results[cell.name] = ended(70.0 - lost, sent.get(run, 300))
  figures = paper.figures_of(table, results, "saving")
  assert figures["20%, SkewScout"] == 20.0
  assert figures["20%, Oracle"] == 40.0
  assert figures["100%, Oracle"] == 4.0
  told = paper.render(table, "small", results)
  assert "| 60% | 70.00 | 1.20 kB | 40.0x (T_0 = 50%) | 70.00 | 20.0x | 2.0x of Oracle |" in told
  assert (
    "at most 1.5 times what Oracle does | did not hold: 20.00, 40.00 times | not in the text |"
    in told
  )
  paper.draw(table, results, tmp_path)
  (axes,) = drawn[f"{table.name}.png"].axes
  assert [bar.get_height() for bar in axes.patches] == [20, 20, 20, 40, 40, 4]


def ended(top1: float, sent: int) -> paper.Result:
  return paper.Result({"top1": top1 / 100, "bytes_up": 0, "bytes_down": sent}, [], 10_000)


def test_a_name_chooses_what_it_begins():
  def names(text):
    return [table.name for table in paper.choose(text)]

  models = ["alexnet", "googlenet", "lenet", "resnet20"]
  assert names("004.6") == [f"004.6.{model}" for model in models]
  assert names("004.fig1,000.1") == [*(f"004.fig1.{model}" for model in models), "000.1"]
  assert names("004.8.lenet") == ["004.8.lenet"]
  assert names("all") == list(paper.TABLES)
  assert names("001") == [table.name for table in of_papers("001")]
  assert names("004.fig1.lenet,004.fig1")[0] == "004.fig1.lenet"


def test_files_are_looked_for_below_the_data():
  cells = {name: paper.TABLES[name].cells[0] for name in ("000.1", "004.fig3", "004.fig2")}
  placed = {name: paper.place(cell.config("full"), "/there") for name, cell in cells.items()}
  shown = {name: (config.data, config.data_dir) for name, config in placed.items()}
  assert shown == {
    "000.1": ("cifar10", "/there"),
    "004.fig3": ("folder:/there/faces", None),
    "004.fig2": ("csv:/there/flickr_mammal.csv", None),
  }
  for name in ("004.fig3", "004.fig2"):
    with pytest.raises(UserError, match="data_dir"):
      paper.place(cells[name].config("full"), None)


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
  with pytest.raises(flags.Error, match=r"--scale=huge.*smoke"):  # which ``app.run`` says
    values(["paper", "--scale=huge"])
