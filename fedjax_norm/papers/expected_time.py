"""A rough estimate of how long the cells of a table take, on one CPU core or one GPU.

On an NVIDIA H100, a local step of all clients took 1 to 22 ms with small networks, in which the
time goes into starting kernels: about a millisecond for each layer, by a factor of two to five.
With ResNet-18 it computed 42 TFLOP/s, of which half is assumed. A core of the CPU on which the
results were measured computed about 80 GFLOP/s with ResNet-10 at scale ``small``.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from fedjax_norm import models
from fedjax_norm.models.flops import layer_macs
from fedjax_norm.norm import create
from fedjax_norm.papers.tables import Cell


class Machine(NamedTuple):
  """What a machine needs: seconds to start a run, and for each layer in a step; FLOP/s."""

  start: float
  layer: float
  flops: float


CPU_CORE = Machine(20.0, 2e-4, 5e10)
GPU = Machine(60.0, 1e-3, 2e13)

_DATA = {
  "digits": (1_437, 360, (8, 8, 1), 10),
  "mnist": (60_000, 10_000, (28, 28, 1), 10),
  "cifar10": (50_000, 10_000, (32, 32, 3), 10),
  "cifar100": (50_000, 10_000, (32, 32, 3), 100),
  "masks:cityscapes": (2_975, 500, (1024, 2048, 3), 19),
  "tiny_imagenet": (100_000, 10_000, (64, 64, 3), 200),
}
"""Data -> (training examples, test examples, shape of an image, classes)."""


def total(cells: Iterable[Cell], scale: str, machine: Machine, seeds: int) -> float:
  """Returns the seconds of all runs of the cells, with the search for their learning rates.

  NaN if one needs data whose size is not known.
  """
  each = {cell.name: cell for cell in cells}.values()
  return math.fsum(cell.work(seeds) * seconds(cell.config(scale), machine) for cell in each)


def seconds(config: Any, machine: Machine) -> float:
  """Returns the seconds of a run with some options; NaN if the size of its data is not known."""
  if config.data not in _DATA:
    return math.nan
  examples, tested, (height, width, channels), classes = _DATA[config.data]
  share = (config.first_classes or classes) / classes
  classes, examples, tested = round(share * classes), round(share * examples), round(share * tested)
  height, width = (config.image_size or side for side in (height, width))
  examples = round(examples * (config.train_share or 1))
  clients = config.clients or 10
  config = config.in_rounds(clients, examples)
  layers, macs = _size(config.model, config.stem, classes, (height, width, channels))
  # In split learning clients take turns; otherwise all of them take a step together.
  together = clients * config.batch_size if config.row.name != "split" else config.batch_size
  steps = config.rounds  # of a method in which a round is a step
  if not config.row.stepwise:
    steps *= getattr(config, "local_steps", None) or 1
    if epochs := getattr(config, "local_epochs", None):
      steps = config.rounds * epochs * examples / together
  evaluations = config.rounds / config.eval_every
  step = max(machine.layer * layers, 6 * macs * together / machine.flops)
  return machine.start + steps * step + evaluations * 2 * macs * tested / machine.flops


@functools.cache
def _size(name: str, stem: str, classes: int, shape: tuple[int, int, int]) -> tuple[int, int]:
  """Returns a model's number of layers with kernels, and its multiply-adds for an image."""
  macs = layer_macs(models.create(name, create("none"), classes, shape, stem), shape)
  return len(macs), sum(macs.values())
