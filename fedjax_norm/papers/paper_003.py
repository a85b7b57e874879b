"""Tables 1 and 2 and figures 3 and 4 of paper 003 (Gupta and Raskar 2018) as data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_norm.papers.tables import Cell, Claim, Table, alike, least, rising

Options = Mapping[str, Any]


_NONE: Options = {}
_PLAIN: Options = {"lr_schedule": "constant", "lr_boundaries": None}
_SMOKE_NETWORK: Options = {
  "data": "digits", "image_size": None, "model": "tiny", "norm": "gn", "whiten": "none",
  "subtract": "none", "augment": "none", "cut": "conv1",
}  # fmt: skip
_SMALL_NETWORK: Options = {**_SMOKE_NETWORK, "data": "cifar10", "image_size": 16, "model": "lenet"}
_SMOKE = "the smallest network on digits, a few passes over them: only that it runs."
_ALONE: Options = {"clients": 1, "batch_size": 50, "scale_lr_from": None, "norm": "bn"}
_ALEXNET: Options = {"data": "tiny_imagenet", "model": "alexnet", "whiten": "none",
                     "subtract": "image", "cut": "conv1"}  # fmt: skip
# By the first word of a preset: the flag that counts epochs, and what switches a warm-up off.
_LENGTHS = {"split": "rounds", "fedavg": "rounds", "ssgd": "epochs"}
_COLD: Mapping[str, Options] = {
  "split": {"lr_warmup_rounds": 0},
  "fedavg": {},
  "ssgd": {"lr_warmup_epochs": None},
}


class _Setting(NamedTuple):
  """A row of tables 1 and 2, of the data and the network that the title names."""

  title: str
  epochs: int
  parity: tuple[float, float]  # table 1: a single agent's accuracy, and split learning's
  shares: tuple[float, float, float]  # table 2: with a tenth and half of the data, and all of it
  passes: int  # over the data at the scale small
  words: str  # what that scale means
  small: Options = _SMALL_NETWORK
  options: Options = _NONE  # at every scale
  split: str = "split_cifar10_vgg"
  single: str = "ssgd_cifar10_vgg"
  alone: Options = _ALONE  # of the single machine besides


_ROWS = {
  "mnist": _Setting(
    "MNIST, LeNet",
    50, (99.18, 99.20), (97.54, 98.93, 99.20), 3,
    "all of MNIST, 3 epochs, the rate falling after 2.",
    small={},
    split="split_mnist",
    single="ssgd_mnist",
    alone={},
  ),
  "cifar10": _Setting(
    "CIFAR-10, VGG",
    200, (92.45, 92.43), (72.53, 89.05, 92.45), 4,
    "LeNet with GN on images of 16 pixels, 4 epochs at a constant rate.",
  ),
  "cifar100": _Setting(
    "CIFAR-100, VGG",
    200, (66.47, 66.59), (36.03, 59.51, 66.59), 2,
    "a stand-in, for this scale does with CIFAR-10: a network of two convolutions at 16 pixels, 2 "
    "epochs.",
    {**_SMALL_NETWORK, "model": "cnn"},
    {"data": "cifar100"},
  ),
  "ilsvrc": _Setting(
    "ILSVRC 12 (Tiny-ImageNet stands in), AlexNet",
    100, (57.1, 57.1), (27.1, 56.3, 57.1), 2,
    "a stand-in, for this scale does with CIFAR-10: AlexNet with GN at 16 pixels, 2 epochs.",
    {**_SMALL_NETWORK, "model": "alexnet"},
    _ALEXNET,
  ),
}  # fmt: skip


def _cell(
  label: str, preset: str, options: Options, small: Options, smoke: Options, top1: float | None
) -> Cell:
  """A run; only in split learning is there a cut."""
  kind = preset.partition("_")[0]
  own = ({k: v for k, v in some.items() if kind == "split" or k != "cut"}
         for some in (options, small, smoke))  # fmt: skip
  options, *scales = own
  paper = None if top1 is None else (top1, math.nan)
  return Cell(label, preset, options, dict(zip(("small", "smoke"), scales, strict=True)), paper)


def _row_cell(row: _Setting, label: str, preset: str, options: Options, top1: float) -> Cell:
  """A run of tables 1 and 2."""
  kind, mnist = preset.partition("_")[0], row.split == "split_mnist"
  length, warmup = _LENGTHS[kind], {} if mnist else _COLD[kind]
  steps = {"lr_boundaries": (2,)} if mnist else _PLAIN
  options = {**row.options, **options, length: row.epochs}
  small = {**row.small, **warmup, **steps, length: row.passes, "eval_every": 1}
  smoke = {**_SMOKE_NETWORK, **warmup, **_PLAIN, length: 4, "eval_every": 2, "batch_size": 20}
  return _cell(label, preset, options, small, smoke, top1)


def _table_1(name: str) -> Table:
  row = _ROWS[name]
  single, split = row.parity
  same = name == "mnist"
  return Table(
    f"003.1.{name}",
    f"Paper 003, table 1: {row.title}, split learning beside a single machine",
    (
      _row_cell(row, "single machine", row.single, row.alone, single),
      _row_cell(row, "split, 10 agents", row.split, {}, split),
    ),
    (
      Claim(
        "split learning is as good as a single machine (0.2 points)",
        ("single machine", "split, 10 agents"),
        alike(0.2),
      ),
    ),
    (
      "The paper does not say how many agents there were; ours are the ten of table 2.",
      "The single machine is `experiments.ssgd` with one worker, which knows nothing of cuts and "
      + (
        "takes the same batches in the same order as the ten agents after one another, where a "
        "tenth of the data is whole batches, as MNIST's is."
        if same
        else "takes other batches, crops and dropout: equal within chance, not number for number."
      ),
    ),
    {"small": row.words, "smoke": _SMOKE},
  )


def _table_2(name: str) -> Table:
  row = _ROWS[name]
  labels = ("1 agent", "5 agents", "10 agents")
  parts: list[Options] = [{"clients": n, "train_share": n / 10} for n in (1, 5)]
  cells = tuple(
    _row_cell(row, label, row.split, part, top1)
    for label, part, top1 in zip(labels, [*parts, {}], row.shares, strict=True)
  )
  return Table(
    f"003.2.{name}",
    f"Paper 003, table 2: {row.title}, by the agents that take part",
    cells,
    (Claim("accuracy rises with every agent's data", labels, rising),),
    (
      "An agent holds a tenth of the training data, drawn at random; a run goes through all of its "
      "agents' data as many times whatever they are.",
    ),
    {"small": row.words, "smoke": _SMOKE},
  )


# Figures 3 and 4.


class _Network(NamedTuple):
  """A network of figures 3 and 4, and the flags of all three algorithms."""

  title: str
  options: Options
  small: Options
  words: str  # what the scale small means


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
    "a stand-in, for this scale does with CIFAR-10: ResNet-20 on a fifth of it at 16 pixels, 10 "
    "epochs.",
  ),
}
_METHODS = {
  "split learning": "split_cifar10_vgg",
  "FedAvg": "fedavg_cifar10_vgg",
  "large-batch SGD": "ssgd_cifar10_vgg",
}
_SMOKE_CLIENTS = {100: 10, 500: 40}
_JOINT = 1000  # the batch of large-batch SGD, whatever the clients


def _method(label: str, network: _Network, clients: int) -> Cell:
  """One of the three on a network."""
  preset, fewer = _METHODS[label], _SMOKE_CLIENTS[clients]
  kind = preset.partition("_")[0]
  batch_size, rate, smoke = 10, 0.01, {**_SMOKE_NETWORK, "clients": fewer}
  shared = {**_PLAIN, **_COLD[kind]}
  if kind == "ssgd":
    batch_size, rate, smoke["batch_size"] = _JOINT // clients, 0.1, 80 // fewer
    shared["scale_lr_from"] = None
  options = {**network.options, "norm": "gn", "clients": clients, "batch_size": batch_size}
  shared["lr"], length = rate, _LENGTHS[kind]
  small = {**network.small, **shared, length: 10, "eval_every": 1}
  smoke |= {**shared, length: 12, "eval_every": 2}
  return _cell(label, preset, options, small, smoke, None)


def _figure(number: str, key: str, clients: int, measure: str, paper: str) -> Table:
  network = _NETWORKS[key]
  what = {"client_flops": "compute", "sent": "send and receive"}[measure]
  return Table(
    f"003.fig{number}",
    f"Paper 003, figure {number}: {network.title}, {clients} clients",
    tuple(_method(label, network, clients) for label in _METHODS),
    tuple(
      Claim(
        f"for an accuracy that all reach, clients of {label} {what} more than those of split "
        "learning",
        (label,),
        least(1.0),
        measure,
      )
      for label in ("FedAvg", "large-batch SGD")
    ),
    (
      paper,
      "Operations are those of training by XLA's count, of all clients together: of split learning "
      "those of the client's stages, of the others those of the whole network. Bytes go both ways "
      "and hold the hand-over between clients.",
    ),
    {"small": network.words, "smoke": _SMOKE},
    figure=measure,
    choices=_choices,
  )


def _choices(configs: Sequence[Any]) -> str:
  """What the paper leaves open, of the runs of ``_METHODS`` at a scale."""
  split, _, stepwise = configs
  return (
    "The paper tells neither the cut, nor the batches, rates or epochs between averages. Ours: a "
    f"client keeps the network up to `{split.cut}`; FedAvg averages all clients after an epoch "
    f"of each; a step of large-batch SGD sees {stepwise.clients * stepwise.batch_size:,} images."
  )


_NO_NUMBERS = "The text prints no numbers of the figure."

TABLES = (
  *map(_table_1, _ROWS),
  *map(_table_2, _ROWS),
  _figure("3a", "vgg", 100, "client_flops", _NO_NUMBERS),
  _figure("3b", "resnet50", 500, "client_flops", _NO_NUMBERS),
  _figure("4a", "vgg", 500, "sent", _NO_NUMBERS),
  _figure("4b", "resnet50", 500, "sent", _NO_NUMBERS),
)
