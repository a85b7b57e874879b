"""Tables 1 and 2 and figures 3 and 4 of paper 003 (Gupta and Raskar 2018) as data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.tables import Cell, Claim, Table, alike, least, rising

Options = Mapping[str, Any]


class _Setting(NamedTuple):
  """A row of tables 1 and 2.

  Attributes:
    title: the data and the network.
    split: the preset of split learning.
    single: that of a single machine.
    options: flags of both besides.
    alone: flags of the single machine besides.
    epochs: the paper's.
    small: flags of both at the scale ``small``.
    passes: over the data there.
    words: what they mean.
    parity: table 1: a single agent's accuracy, and split learning's.
    shares: table 2: the accuracies with a tenth and half of the data, and with all of it.
  """

  title: str
  split: str
  single: str
  options: Options
  alone: Options
  epochs: int
  small: Options
  passes: int
  words: str
  parity: tuple[float, float]
  shares: tuple[float, float, float]


_PLAIN: Options = {"lr_schedule": "constant", "lr_boundaries": None}
_SMOKE_NETWORK: Options = {
  "data": "digits",
  "image_size": None,
  "model": "tiny",
  "norm": "gn",
  "whiten": "none",
  "subtract": "none",
  "augment": "none",
}
_SMALL_NETWORK: Options = {
  **_SMOKE_NETWORK,
  "data": "cifar10",
  "image_size": 16,
  "model": "lenet",
}
_SMOKE = "the smallest network on digits, a few passes over them: only that it runs."
_ALONE: Options = {"clients": 1, "batch_size": 50, "scale_lr_from": None, "norm": "bn"}
_ALEXNET: Options = {
  "data": "tiny_imagenet",
  "model": "alexnet",
  "whiten": "none",
  "subtract": "image",
}

_ROWS = {
  "mnist": _Setting(
    "MNIST, LeNet",
    "split_mnist",
    "ssgd_mnist",
    {},
    {},
    50,
    {},
    3,
    "all of MNIST, 3 epochs, the rate falling after 2.",
    (99.18, 99.20),
    (97.54, 98.93, 99.20),
  ),
  "cifar10": _Setting(
    "CIFAR-10, VGG",
    "split_cifar10_vgg",
    "ssgd_cifar10_vgg",
    {},
    _ALONE,
    200,
    {**_SMALL_NETWORK, "cut": "conv1"},
    4,
    "LeNet with GN on images of 16 pixels, 4 epochs at a constant rate.",
    (92.45, 92.43),
    (72.53, 89.05, 92.45),
  ),
  "cifar100": _Setting(
    "CIFAR-100, VGG",
    "split_cifar10_vgg",
    "ssgd_cifar10_vgg",
    {"data": "cifar100"},
    _ALONE,
    200,
    {**_SMALL_NETWORK, "model": "cnn", "cut": "conv1"},
    2,
    "a stand-in, for this scale does with CIFAR-10: a network of two convolutions at 16 pixels, 2 "
    "epochs.",
    (66.47, 66.59),
    (36.03, 59.51, 66.59),
  ),
  "ilsvrc": _Setting(
    "ILSVRC 12 (Tiny-ImageNet stands in), AlexNet",
    "split_cifar10_vgg",
    "ssgd_cifar10_vgg",
    {**_ALEXNET, "cut": "conv1"},
    _ALONE,
    100,
    {**_SMALL_NETWORK, "model": "alexnet", "cut": "conv1"},
    2,
    "a stand-in, for this scale does with CIFAR-10: AlexNet with GN at 16 pixels, 2 epochs.",
    (57.1, 57.1),
    (27.1, 56.3, 57.1),
  ),
}


def _scales(row: _Setting, length: str) -> dict[str, dict[str, Any]]:
  """What the scales change.

  Args:
    row: the data.
    length: the flag that counts epochs: ``rounds``, of split learning, or ``epochs``.
  """
  warm = "lr_warmup_rounds" if length == "rounds" else "lr_warmup_epochs"
  warmup = {} if row.split == "split_mnist" else {warm: 0 if length == "rounds" else None}
  steps: Options = {"lr_boundaries": (2,)} if row.split == "split_mnist" else _PLAIN
  small = {**row.small, **warmup, **steps, length: row.passes, "eval_every": 1}
  smoke = {**_SMOKE_NETWORK, **warmup, **_PLAIN, length: 4, "eval_every": 2}
  smoke |= {"batch_size": 20} | ({"cut": "conv1"} if length == "rounds" else {})
  if length == "epochs":
    small.pop("cut", None)
  return {"small": small, "smoke": smoke}


def _split(name: str, label: str, top1: float, share: float = 1.0) -> Cell:
  """A run of split learning with so much of the data, a tenth an agent."""
  row = _ROWS[name]
  options = {**row.options, "rounds": row.epochs}
  if share < 1:
    options |= {"clients": round(10 * share), "train_share": share}
  return Cell(label, row.split, options, _scales(row, "rounds"), (top1, math.nan))


def _table_1(name: str) -> Table:
  row = _ROWS[name]
  alone = {**row.options, **row.alone, "epochs": row.epochs}
  alone.pop("cut", None)
  single, split = row.parity
  same = name == "mnist"
  return Table(
    f"003.1.{name}",
    f"Paper 003, table 1: {row.title}, split learning beside a single machine",
    (
      Cell("single machine", row.single, alone, _scales(row, "epochs"), (single, math.nan)),
      _split(name, "split, 10 agents", split),
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
  cells = tuple(
    _split(name, label, top1, share)
    for label, top1, share in zip(labels, row.shares, (0.1, 0.5, 1.0), strict=True)
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
  """A network of figures 3 and 4.

  Attributes:
    title: the network and the data.
    options: flags of all three algorithms.
    cut: the client's last stage.
    small: flags of all three at the scale ``small``, and the client's last stage there.
    words: what they mean.
  """

  title: str
  options: Options
  cut: str
  small: Options
  words: str


_NETWORKS = {
  "vgg": _Network(
    "VGG, CIFAR-10",
    {},
    "conv1_2",
    {**_SMALL_NETWORK, "train_share": 0.2, "cut": "conv1"},
    "LeNet on a fifth of CIFAR-10 at 16 pixels, 10 epochs.",
  ),
  "resnet50": _Network(
    "ResNet-50, CIFAR-100",
    {"data": "cifar100", "model": "resnet50"},
    "stem",
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
  preset, stepwise = _METHODS[label], label == "large-batch SGD"
  options = {**network.options, "norm": "gn", "clients": clients}
  options["batch_size"] = _JOINT // clients if stepwise else 10
  cut: Options = {"cut": network.cut} if label == "split learning" else {}
  small: dict[str, Any] = {**network.small, **_PLAIN}
  smoke: dict[str, Any] = {**_SMOKE_NETWORK, "cut": "conv1", **_PLAIN}
  smoke["clients"] = _SMOKE_CLIENTS[clients]
  if stepwise:
    small |= {"epochs": 10, "eval_every": 1, "lr_warmup_epochs": None, "scale_lr_from": None}
    smoke |= {"epochs": 12, "eval_every": 2, "lr_warmup_epochs": None, "scale_lr_from": None}
    smoke["batch_size"] = 80 // smoke["clients"]
    small["lr"] = smoke["lr"] = 0.1
  else:
    small |= {"rounds": 10, "eval_every": 1, "lr": 0.01}
    smoke |= {"rounds": 12, "eval_every": 2, "lr": 0.01}
    if cut:
      small["lr_warmup_rounds"] = smoke["lr_warmup_rounds"] = 0
  if not cut:
    del small["cut"], smoke["cut"]
  return Cell(label, preset, {**options, **cut}, {"small": small, "smoke": smoke})


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
