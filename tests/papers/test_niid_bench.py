"""NIID-Bench as data: valid flags at every scale, the published settings, the published values."""

import pytest

from fedjax_norm import models
from fedjax_norm.cli import train
from fedjax_norm.papers import niid_bench
from fedjax_norm.papers.tables import Cell
from fedjax_norm.presets import catalog

CELLS = [cell for table in niid_bench.TABLES for cell in table.cells]
DIRICHLET = {"partition": "dirichlet", "alpha": 0.5, "min_size": 10, "cap_sizes": True}
PARTITIONS = {
  "IID": {"partition": "iid"},
  "Dirichlet 0.5": DIRICHLET,
  "1 label": {"partition": "random_classes", "classes_per_client": 1},
  "2 labels": {"partition": "random_classes", "classes_per_client": 2},
  "3 labels": {"partition": "random_classes", "classes_per_client": 3},
}
UNUSED = dict.fromkeys((*DIRICHLET, "classes_per_client"))
METHODS = {
  "FedAvg": ("fedavg", {"prox": 0, "server_optimizer": "sgd"}),
  "FedProx": ("fedavg", {"prox": 0.01, "server_optimizer": "sgd"}),
  "SCAFFOLD": ("scaffold", {}),
}
COMMON = {
  "model": "niid", "norm": "none", "clients": 10, "cohort": None, "standardise": False,
  "whiten": "none", "subtract": "none", "batch_size": 64, "local_epochs": 10, "local_steps": None,
  "rounds": 50, "lr": 0.01, "lr_schedule": "constant", "momentum": 0.9, "nesterov": False,
  "client_momentum": "reset", "weight_decay": 1e-5, "clip_norm": 0, "weighting": "examples",
  "server_lr": 1,
}  # fmt: skip
IMAGES = {
  "cifar10": {"augment": "crop_flip", "crop_padding": "reflect"},
  "mnist": {"augment": "none"},
}


@pytest.mark.parametrize("scale", ["smoke", "small", "full"])
def test_every_cell_has_valid_flags(scale):
  for cell in CELLS:
    config = cell.config(scale)
    train.check(config.in_rounds(config.clients, 50_000))
    side = config.image_size or 28
    models.create(config.model, config.make_norm(1), 10, (side, side, 1))


@pytest.mark.parametrize("table", niid_bench.TABLES, ids=lambda table: table.name)
def test_full_scale_has_the_published_setting(table):
  data = table.name.partition(".")[2]
  for cell in table.cells:
    algorithm, column = cell.label.split(", ")
    method, options = METHODS[algorithm]
    config = cell.config("full")
    expected = {**UNUSED, **COMMON, **options, **IMAGES[data], **PARTITIONS[column], "data": data}
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.row.name == method


def test_small_scale_differs_only_in_its_length():
  for cell in CELLS:
    length = {"rounds": 50, "eval_every": 5}
    assert cell.config("small", **length) == cell.config("full", **length)
    assert cell.config("small").rounds < 50


def test_the_presets_differ_only_in_the_method():
  fedavg, scaffold = (set(catalog.load(f"{kind}_niid_bench").flags) for kind in ("fedavg", "run"))
  assert scaffold - fedavg == {"--method=scaffold"}
  assert fedavg < scaffold


def test_claims_and_baselines_name_cells():
  for table in niid_bench.TABLES:
    labels = {cell.label for cell in table.cells}
    assert len(labels) == len(table.cells) == len({cell.name for cell in table.cells})
    assert table.baseline in labels
    for claim in table.claims:
      assert {key for one in claim.statement.contrasts for key in one.weights} <= labels


def test_values_are_the_published_ones():
  """The README of Flower's baseline: rows are partitions."""
  columns = {
    ("cifar10", "FedAvg"): "71.7 63.4 10.0 49.9 58.1",
    ("cifar10", "FedProx"): "70.6 65.6 11.6 50.0 60.0",
    ("cifar10", "SCAFFOLD"): "70.7 68.0 10.0 48.9 60.0",
    ("mnist", "FedAvg"): "99.1 98.9 10.0 96.6 98.2",
  }
  for table in niid_bench.TABLES:
    printed: dict[str, list[Cell]] = {}
    for cell in table.cells:
      printed.setdefault(cell.label.split(", ")[0], []).append(cell)
    for algorithm, cells in printed.items():
      row = columns.pop((table.name.partition(".")[2], algorithm))
      assert [cell.paper[0] for cell in cells] == [float(value) for value in row.split()]
      assert [cell.label.split(", ")[1] for cell in cells] == list(PARTITIONS)
  assert not columns
