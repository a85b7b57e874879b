"""Tables 1 and 2 and figures 3 and 4 of paper 003 (Gupta and Raskar 2018)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_norm.papers.tables import Cell, Claim, Table, Value
from fedjax_norm.study.verdicts import alike, rising, times

Options = Mapping[str, Any]

_NONE: Options = {}
_CONSTANT_RATE: Options = {"lr_schedule": "constant", "lr_boundaries": None}
_SMOKE_NETWORK: Options = {
  "data": "digits", "image_size": None, "model": "tiny", "norm": "gn", "whiten": "none",
  "subtract": "none", "augment": "none", "cut": "conv1",
}  # fmt: skip
_SMALL_NETWORK: Options = {**_SMOKE_NETWORK, "data": "cifar10", "image_size": 16, "model": "lenet"}
_SMOKE_NOTE = "the smallest network on digits for a few epochs, only to check that it runs."
_SINGLE_MACHINE: Options = {"clients": 1, "batch_size": 50, "scale_lr_from": None, "norm": "bn"}
_ALEXNET: Options = {"data": "tiny_imagenet", "model": "alexnet", "whiten": "none",
                     "subtract": "image", "cut": "conv1"}  # fmt: skip
# First word of a preset -> flag with the number of epochs; flags that turn the warm-up off.
_LENGTHS = {"split": "rounds", "fedavg": "rounds", "ssgd": "epochs"}
_NO_WARMUP: Mapping[str, Options] = {
  "split": {"lr_warmup_rounds": 0},
  "fedavg": {},
  "ssgd": {"lr_warmup_epochs": None},
}


class _Setting(NamedTuple):
  """A row of tables 1 and 2."""

  title: str  # data and network
  epochs: int
  table_1: tuple[float, float]  # accuracies of a single machine and of split learning
  table_2: tuple[float, float, float]  # accuracies with a tenth, half and all of the data
  small_epochs: int  # epochs at scale small
  small_note: str  # description of scale small
  small: Options = _SMALL_NETWORK  # flags at scale small
  tested: int = 10_000  # test images of the paper
  options: Options = _NONE  # flags at every scale
  split: str = "split_cifar10_vgg"  # preset of split learning
  single: str = "ssgd_cifar10_vgg"  # preset of the single machine
  single_options: Options = _SINGLE_MACHINE  # further flags of the single machine


_ROWS = {
  "mnist": _Setting(
    "MNIST, LeNet",
    50, (99.18, 99.20), (97.54, 98.93, 99.20), 3,
    "all of MNIST, 3 epochs, with a lower learning rate after 2.",
    small={},
    split="split_mnist",
    single="ssgd_mnist",
    single_options={},
  ),
  "cifar10": _Setting(
    "CIFAR-10, VGG",
    200, (92.45, 92.43), (72.53, 89.05, 92.45), 4,
    "LeNet with GN on images of 16 pixels, 4 epochs at a constant learning rate.",
  ),
  "cifar100": _Setting(
    "CIFAR-100, VGG",
    200, (66.47, 66.59), (36.03, 59.51, 66.59), 2,
    "CIFAR-10 instead, as always at this scale: a network of two convolutions at 16 pixels, 2 "
    "epochs.",
    {**_SMALL_NETWORK, "model": "cnn"},
    options={"data": "cifar100"},
  ),
  "ilsvrc": _Setting(
    "ILSVRC 12 (replaced by Tiny-ImageNet), AlexNet",
    100, (57.1, 57.1), (27.1, 56.3, 57.1), 2,
    "CIFAR-10 instead, as always at this scale: AlexNet with GN at 16 pixels, 2 epochs.",
    {**_SMALL_NETWORK, "model": "alexnet"},
    50_000,
    _ALEXNET,
  ),
}  # fmt: skip


def _cell(
  label: str, preset: str, options: Options, small: Options, smoke: Options, top1: float | None
) -> Cell:
  """Returns a cell; removes the flag ``cut`` unless the preset is one of split learning."""
  split = preset.startswith("split_")
  options, *scales = ({k: v for k, v in flags.items() if split or k != "cut"}
                      for flags in (options, small, smoke))  # fmt: skip
  paper = None if top1 is None else (top1, math.nan)
  return Cell(label, preset, options, dict(zip(("small", "smoke"), scales, strict=True)), paper)


def _row_cell(row: _Setting, label: str, preset: str, options: Options, top1: float) -> Cell:
  """Returns a cell of tables 1 and 2."""
  kind, mnist = preset.partition("_")[0], row.split == "split_mnist"
  length, warmup = _LENGTHS[kind], {} if mnist else _NO_WARMUP[kind]
  schedule = {"lr_boundaries": (2,)} if mnist else _CONSTANT_RATE
  options = {**row.options, **options, length: row.epochs}
  small = {**row.small, **warmup, **schedule, length: row.small_epochs, "eval_every": 1}
  smoke = {**_SMOKE_NETWORK, **warmup, **_CONSTANT_RATE, length: 4, "batch_size": 20}
  smoke["eval_every"] = 2
  return _cell(label, preset, options, small, smoke, top1)


def _table_1(name: str) -> Table:
  row = _ROWS[name]
  single, split = row.table_1
  return Table(
    f"003.1.{name}",
    f"Paper 003, table 1: {row.title}, split learning and a single machine",
    (
      _row_cell(row, "single machine", row.single, row.single_options, single),
      _row_cell(row, "split, 10 agents", row.split, {}, split),
    ),
    (
      Claim(
        "split learning is as good as a single machine (0.2 points)",
        alike(0.2, "single machine", "split, 10 agents"),
      ),
    ),
    (
      "The paper does not state the number of agents; ours are the ten of table 2.",
      "The single machine is `experiments.ssgd` with one worker and no cut, which "
      + (
        "draws the same batches in the same order as the ten agents in turn, because a tenth of "
        "MNIST is a whole number of batches."
        if name == "mnist"
        else "draws other batches, crops and dropout masks, so the accuracies differ by chance."
      ),
    ),
    {"small": row.small_note, "smoke": _SMOKE_NOTE},
    paper_tested=row.tested,
  )


def _table_2(name: str) -> Table:
  row = _ROWS[name]
  labels = ("1 agent", "5 agents", "10 agents")
  parts: list[Options] = [{"clients": n, "train_share": n / 10} for n in (1, 5)]
  cells = tuple(
    _row_cell(row, label, row.split, part, top1)
    for label, part, top1 in zip(labels, [*parts, {}], row.table_2, strict=True)
  )
  return Table(
    f"003.2.{name}",
    f"Paper 003, table 2: {row.title}, by the number of agents",
    cells,
    (Claim("accuracy rises with every agent's data", rising(*labels)),),
    (
      "Each agent has a random tenth of the training data. All rows train for equally many epochs.",
    ),
    {"small": row.small_note, "smoke": _SMOKE_NOTE},
    paper_tested=row.tested,
  )


# Figures 3 and 4.


class _Network(NamedTuple):
  """A network of figures 3 and 4."""

  title: str  # network and data
  options: Options  # flags of all three algorithms
  small: Options  # further flags at scale small
  small_note: str  # description of scale small


_NETWORKS = {
  "vgg": _Network(
    "VGG, CIFAR-10",
    {"cut": "conv1_2"},
    {**_SMALL_NETWORK, "train_share": 0.2},
    "LeNet on a fifth of CIFAR-10 at 16 pixels, 10 epochs.",
  ),
  "resnet50": _Network(
    "ResNet-50, CIFAR-100",
    {"data": "cifar100", "model": "resnet50", "cut": "stem"},
    {**_SMALL_NETWORK, "model": "resnet20", "train_share": 0.2, "cut": "stem"},
    "CIFAR-10 instead, as always at this scale: ResNet-20 on a fifth of it at 16 pixels, 10 "
    "epochs.",
  ),
}
_METHODS = {
  "split learning": "split_cifar10_vgg",
  "FedAvg": "fedavg_cifar10_vgg",
  "large-batch SGD": "ssgd_cifar10_vgg",
}
_SMOKE_CLIENTS = {100: 10, 500: 40}
_JOINT_BATCH = 1000  # images per step of large-batch SGD, for any number of clients


def _method(label: str, network: _Network, clients: int) -> Cell:
  """Returns the run of a method (a key of ``_METHODS``) with a network and a number of clients."""
  preset, smoke_clients = _METHODS[label], _SMOKE_CLIENTS[clients]
  kind = preset.partition("_")[0]
  batch_size, rate, smoke = 10, 0.01, {**_SMOKE_NETWORK, "clients": smoke_clients}
  shared = {**_CONSTANT_RATE, **_NO_WARMUP[kind]}
  if kind == "ssgd":
    batch_size, rate, smoke["batch_size"] = _JOINT_BATCH // clients, 0.1, 80 // smoke_clients
    shared["scale_lr_from"] = None
  options = {**network.options, "norm": "gn", "clients": clients, "batch_size": batch_size}
  shared["lr"], length = rate, _LENGTHS[kind]
  small = {**network.small, **shared, length: 10, "eval_every": 1}
  smoke |= {**shared, length: 12, "eval_every": 2}
  return _cell(label, preset, options, small, smoke, None)


def _figure(number: str, key: str, clients: int, measure: str) -> Table:
  network = _NETWORKS[key]
  verb = {"client_flops": "compute", "sent": "send and receive"}[measure]
  return Table(
    f"003.fig{number}",
    f"Paper 003, figure {number}: {network.title}, {clients} clients",
    tuple(_method(label, network, clients) for label in _METHODS),
    tuple(
      Claim(
        f"to reach a common accuracy, clients of {label} {verb} more than those of split learning",
        times(1.0, Value(label, measure), Value("split learning", measure)),
      )
      for label in ("FedAvg", "large-batch SGD")
    ),
    (
      "The text prints no numbers of the figure.",
      "Operations are those that XLA counts for the training of all clients together: in split "
      "learning, of the layers up to the cut; otherwise, of the whole network. Bytes are up and "
      "down, with the weights that one client of split learning hands over to the next.",
    ),
    {"small": network.small_note, "smoke": _SMOKE_NOTE},
    figure=measure,
    choices=_choices,
  )


def _choices(configs: Sequence[Any]) -> str:
  """Returns a note on settings that the paper does not state, given the flags of the cells."""
  split, _, stepwise = configs
  return (
    "The paper states no cut layer, batches, learning rates or epochs between averages. Ours: a "
    f"client has the network up to `{split.cut}`; FedAvg averages all clients after a local epoch; "
    f"a step of large-batch SGD uses {stepwise.clients * stepwise.batch_size:,} images."
  )


TABLES = (
  *map(_table_1, _ROWS),
  *map(_table_2, _ROWS),
  _figure("3a", "vgg", 100, "client_flops"),
  _figure("3b", "resnet50", 500, "client_flops"),
  _figure("4a", "vgg", 500, "sent"),
  _figure("4b", "resnet50", 500, "sent"),
)
