"""A rough estimate of how long a table takes at scale ``full`` on one GPU.

On an NVIDIA H100, a local step of all clients took 1 to 22 ms with small networks, in which the
time goes into starting kernels: about a millisecond for each layer, by a factor of two to five.
With ResNet-18 it computed 42 TFLOP/s, of which half is assumed.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any

from fedjax_norm import models
from fedjax_norm.models.flops import layer_macs
from fedjax_norm.norm import NormSpec
from fedjax_norm.papers.tables import Cell

_LAYER_SECONDS, _FLOPS, _START_SECONDS = 1e-3, 2e13, 60.0

_DATA = {
  "mnist": (60_000, (28, 28, 1), 10),
  "cifar10": (50_000, (32, 32, 3), 10),
  "cifar100": (50_000, (32, 32, 3), 100),
  "tiny_imagenet": (100_000, (64, 64, 3), 200),
}
"""Data -> (training examples, shape of an image, classes)."""


def minutes(cells: Iterable[Cell], seeds: int) -> float:
  """Returns the minutes of some cells; NaN if one needs data whose size is not known."""
  return seeds * math.fsum(map(_seconds, {cell.name: cell for cell in cells}.values())) / 60


def _seconds(cell: Cell) -> float:
  config: Any = cell.config("full")
  if config.data not in _DATA:
    return math.nan
  examples, shape, classes = _DATA[config.data]
  clients = config.clients or 10
  config = config.in_rounds(clients, round(examples * (config.train_share or 1)))
  layers, macs = _size(config.model, config.make_norm(1), classes, shape)
  # In split learning clients take turns; otherwise all of them take a step together.
  together = clients * config.batch_size if config.row.name != "split" else config.batch_size
  steps = config.rounds  # of a method in which a round is a step
  if not config.row.stepwise:
    steps *= getattr(config, "local_steps", None) or 1
    if epochs := getattr(config, "local_epochs", None):
      steps = config.rounds * epochs * examples * (config.train_share or 1) / together
  return _START_SECONDS + steps * max(_LAYER_SECONDS * layers, 6 * macs * together / _FLOPS)


@functools.cache
def _size(name: str, norm: NormSpec, classes: int, shape: tuple[int, int, int]) -> tuple[int, int]:
  """Returns a model's number of layers with kernels, and its multiply-adds for an image."""
  macs = layer_macs(models.create(name, norm, classes, shape), shape)
  return len(macs), sum(macs.values())
