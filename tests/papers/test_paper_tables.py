"""The papers' tables as data: copied values, settings at each scale, names of runs."""

import re

import pytest
from helpers.binaries import ROOT
from helpers.paper_tables import CELLS, SIZES, by_label, resolve, tables_of

from fedjax_norm import models
from fedjax_norm.cli import train
from fedjax_norm.papers import paper_004_theta_sweeps
from fedjax_norm.papers.paper_004_regions import TABLE_1
from fedjax_norm.papers.registry import TABLES
from fedjax_norm.papers.tables import Value

PAPERS = ROOT.parent / "shared" / "papers"
SCALES = ("smoke", "small", "full")
CHANNELS = {"digits": 1, "identities": 1, "mnist": 1}
SIDES = {"mnist": 28, "cifar10": 32}


@pytest.mark.skipif(not PAPERS.is_dir(), reason="needs the paper's text in ../shared/papers")
def test_paper_000_is_copied_correctly():
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
    for cell in TABLES[f"000.{number}"].cells
  }
  assert printed["1", "0.1"] == copied["1", "0.1"][::-1]  # exchanged in the paper
  del printed["1", "0.1"], copied["1", "0.1"]
  assert printed == copied


@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_has_valid_flags(scale):
  """The flags fit together at every scale; at the smaller two, the norm fits the model."""
  seen = set()
  for cell in CELLS.values():
    config = resolve(cell, scale)
    train.check(config)
    key = (config.model, config.norm, config.groups)
    if scale != "full" and key not in seen:
      seen.add(key)
      channels = CHANNELS.get(config.data.partition(":")[0], 3)
      side = config.image_size or SIDES.get(config.data, 16 if config.task == "verification" else 8)
      models.create(config.model, config.make_norm(1), 10, (side, side, channels))


def test_cells_share_a_run_if_they_have_the_same_flags():
  counts = (("000", "001"), 97, 85), (("002",), 79, 72), (("003",), 32, 25), (("004",), 351, 273)
  for papers, count, num_runs in counts:
    rows = [cell for table in tables_of(*papers) for cell in table.cells]
    runs = {(cell.name, resolve(cell, "full")) for cell in rows}
    assert len(rows) == count
    assert len(runs) == len({name for name, _ in runs}) == len({run for _, run in runs})
    assert len(runs) == num_runs
    for scale in SCALES:  # each folder has one run
      assert len({(cell.name, resolve(cell, scale)) for cell in rows}) == num_runs
  shared = by_label("000.2")
  assert shared["GN"].name == by_label("000.3")["P = 32"].name
  assert shared["BN"].name == by_label("000.1")["R = 0.0"].name
  assert shared["LN"].name not in {cell.name for cell in TABLES["000.3"].cells}


def test_claims_name_cells_of_their_table():
  for name, table in TABLES.items():
    assert table.claims
    cells = by_label(name)
    assert len(cells) == len(table.cells)
    assert all(cell.reference is None or cell.reference in cells for cell in table.cells)
    assert table.baseline is None or table.baseline in cells
    degrees = [label for d in table.degrees for label in (d.bsp, *d.thetas.values(), d.scout)]
    assert set(degrees) <= cells.keys()
    oracles = {f"{degree.label}, Oracle" for degree in table.degrees}
    for claim in table.claims:
      for contrast in claim.statement.contrasts:
        for key in contrast.weights:
          label, measure = key if isinstance(key, Value) else (key, "top1")
          assert label in cells or (measure == "bytes" and label in oracles)
          assert measure != "loss" or cells[label].reference
        measures = {key.measure if isinstance(key, Value) else "top1" for key in contrast.weights}
        assert contrast.is_ratio == (measures <= {"bytes", "sent", "client_flops"})


def test_full_scale_has_the_settings_of_paper_001():
  for cell in TABLES["001.2"].cells:
    config = resolve(cell, "full")
    assert (config.clients * config.batch_size, config.lr) == (320, 0.1)
    assert config.partition == ("iid" if cell.label.startswith("IID") else "classes")
  expected = {  # label -> joint batch, peak rate, epochs of warm-up, rate before the warm-up
    "GN 128": (128, 0.1, 0, 0.0),
    "GN 1k": (1024, 0.8, 6, 0.1),
    "GN 2k": (2048, 1.6, 6, 0.1),
    "Fixup 128": (128, 0.1, 0, 0.0),
    "Fixup 1k": (1024, 0.1, 20, 0.01),
    "Fixup 2k": (2048, 0.1, 20, 0.01),
  }
  for label, cell in by_label("001.1").items():
    config = resolve(cell, "full")
    joint = config.clients * config.batch_size
    epoch = -(-50_000 // joint)
    warmup = config.lr_warmup_rounds / epoch
    start = config.lr_warmup_from or 0.0
    assert (joint, pytest.approx(config.lr), warmup, start) == expected[label]
    assert (config.lr_schedule, config.rounds) == ("plateau", 100 * epoch)
  for label, cell in by_label("001.5").items():
    config = resolve(cell, "full")
    assert label.endswith(f"every {config.local_steps}")
    assert (config.norm, config.batch_size, config.clients) == ("gn", 32, 10)
  for name in ("001.2", "001.1", "001.5"):
    for cell in TABLES[name].cells:
      config = resolve(cell, "full")
      assert (config.model, config.momentum, config.weight_decay) == ("resnet18", 0.9, 5e-4)


def test_cells_of_a_figure_see_the_same_images_at_small_scale():
  """All cells see the same number of images and are evaluated three times."""
  for table in tables_of("000", "001"):
    seen = set()
    for cell in table.cells:
      config = resolve(cell, "small")
      steps = getattr(config, "local_steps", None) or 1
      images = config.rounds * config.clients * config.batch_size * steps
      seen.add(images)
      if steps < 100:  # these runs have only two rounds
        assert config.rounds == 3 * config.eval_every
    large = table.name in ("001.1", "001.3", "001.4", "001.rates", "001.norms")
    assert seen == {9_600 if table.name == "000.cases" else 38_400 if large else 19_200}


@pytest.mark.skipif(not PAPERS.is_dir(), reason="needs the paper's text in ../shared/papers")
def test_paper_004_is_copied_correctly():
  text = next(PAPERS.glob("004_*.txt")).read_text()
  for number, sign in ((6, r"T_0"), (7, r"Iter_\{Local\}"), (8, r"E_\{warm\}")):
    body = text[: text.index(f"\nTable {number}. CIFAR-10")].rpartition("Configuration\t")[2]
    lines = re.findall(rf"^(BSP|\$?{sign} = [^\t]*)\t(.*)$", body, re.MULTILINE)
    printed = [[float(share[:-1]) for share in row.split("\t")] for _, row in lines]
    assert len(printed) == (6 if number == 8 else 8)
    values = [float(re.sub(r"[^\d]", "", name.partition("=")[2])) for name, _ in lines[1:]]
    for i, model in enumerate(paper_004_theta_sweeps.MODELS):
      cells = TABLES[f"004.{number}.{model}"].cells
      assert [c.paper[0] for c in cells] == [
        top1 for row in printed for top1 in row[2 * i : 2 * i + 2]
      ]
      name, factor = {
        6: ("threshold", 100),
        7: ("local_steps", 1),
        8: ("sparsity_warmup_rounds", 1 / 500),
      }[number]
      thetas = [factor * getattr(resolve(cell, "full"), name) for cell in cells[2::2]]
      assert thetas == pytest.approx(values)
  shares = re.findall(r"^(\w+)\t(zebra|mule|panda|lynx|kangaroo)(.*)$", text, re.MULTILINE)
  assert [region for region, *_ in shares] == list(TABLE_1)
  for region, *rest in shares:
    cells = re.findall(r"([\w ]+) \((\d+)%\)", "".join(rest))
    assert {name: int(share) for name, share in cells} == TABLE_1[region]
  last = text[text.index("BatchNorm\t\tBatchReNorm") : text.index("\nTable 9.")]
  assert [cell.paper[0] for cell in TABLES["004.9"].cells] == [
    float(share) for share in re.findall(r"([\d.]+)%", last)
  ]


def test_full_scale_has_the_settings_of_paper_004():
  """The settings are those of tables 2 to 5."""
  expected = {  # batch, rate, decay, epochs, epochs at which the rate drops, power
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
  for table in tables_of("004"):
    for cell in table.cells:
      config = resolve(cell, "full")
      preset = cell.preset.removeprefix("decentralized_")
      seen.add(preset)
      epoch = -(-SIZES.get(config.data, 10_000) // (config.clients * config.batch_size))
      drops = tuple(at / epoch for at in config.lr_boundaries) or None
      power = config.lr_power if config.lr_schedule == "polynomial" else None
      shown = config.batch_size, config.lr, config.weight_decay, config.rounds / epoch
      assert (*shown, drops, power) == expected[preset]
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
    configs = [cell.config("full") for cell in TABLES[name].cells]
    flags_of = ("threshold", "local_steps", "sparsity_warmup_epochs")
    used = [{getattr(c, f, None) for c in configs} - {None} for f in flags_of]
    assert used == [{threshold}, {steps}, {warm} - {None}]
  sizes = {config.clients for config in (c.config("full") for c in TABLES["004.fig19"].cells)}
  assert sizes == {5, 10}
  fractions = {
    f"{cell.config('full').fraction or 1:.0%}": cell.label.rpartition(", ")[2]
    for cell in TABLES["004.fig6"].cells[1:]
  }
  assert fractions == {share: share for share in ("20%", "40%", "60%", "80%", "100%")}


def test_small_scale_of_paper_004_has_joint_steps_of_one_size():
  """Algorithms that add up updates have a K-th of FedAvg's rate."""
  for table in tables_of("004"):
    by_preset: dict[str, set] = {}
    for cell in table.cells:
      config = resolve(cell, "small")
      joint = config.lr * (1 if config.algorithm == "fedavg" else config.clients)
      shown = round(joint, 9), config.rounds, config.model, config.data, config.image_size
      by_preset.setdefault(cell.preset, set()).add(shown)
      if config.lr_boundaries:
        full = resolve(cell, "full")
        for ours, theirs in zip(config.lr_boundaries, full.lr_boundaries, strict=True):
          assert ours / config.rounds == pytest.approx(theirs / full.rounds, abs=0.01)
    assert all(len(shown) == 1 for shown in by_preset.values())
