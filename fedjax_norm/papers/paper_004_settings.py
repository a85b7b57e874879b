"""Makes the cells (runs) of paper 004's tables and figures, with the flags of each scale."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fedjax_norm.papers.tables import Cell

Options = Mapping[str, Any]

IID: Options = MappingProxyType({"partition": "iid"})
PARTITIONS: Mapping[str, Options] = MappingProxyType({"IID": IID, "non-IID": MappingProxyType({})})
"""Column -> flags of the partition; the presets are non-IID: each class is on one client."""

ALGORITHMS = ("Gaia", "FedAvg", "DGC")
COMMON_THETAS: Mapping[str, float] = MappingProxyType({"Gaia": 0.1, "FedAvg": 20, "DGC": 8})
"""Algorithm -> its communication threshold theta in figures 1, 2, 5, 6, 19 and 20."""

NOT_PRINTED = "The text prints only the losses in this table, not the heights of the bars."

DGC_CLIP_NORM = 5.0
"""Norm to which DGC clips gradients: client k of K to 5 / sqrt(K), 2.2 with five clients.

Alg. 3, line 5 clips, but paper 004 prints no value. With LeNet, ours leaves the gradients of the
first rounds on CIFAR-10 unchanged (norms of 0.2 to 1.1) and stops their growth later: without
clipping, five clients of two digits each end at chance. In the authors' published settings clipping
is off, but for one network, where the update with momentum is clipped to 10.
"""

_THETAS = {"Gaia": "threshold", "FedAvg": "local_steps", "DGC": "sparsity_warmup_epochs"}


class _Setting(NamedTuple):
  """The length of a preset's runs, and the changes at the smaller scales."""

  epochs: int  # epochs of the preset
  boundaries: tuple[float, ...]  # learning-rate drops, as shares of the run; () if none
  rounds: int  # rounds at scale small
  # Learning rate at scale small for steps with the mean of the K clients' gradients; algorithms
  # that add the gradients up use a K-th of it.
  rate: float
  clients: int  # number of clients K of the preset
  small: Options  # further flags at scale small
  smoke: Options  # further flags at scale smoke


_DIGITS = {"data": "digits", "model": "tiny", "image_size": None, "batch_size": 4}
_HALVES = (1 / 2, 3 / 4)
_NO_REGIONS = {"region": None, "min_region_size": 0}
_FLICKR = {**_NO_REGIONS, "data": "cifar10", "model": "lenet", "image_size": 16, "batch_size": 20}
_FLICKR_SMOKE = {**_DIGITS, **_NO_REGIONS}
_FACE = {"data": "identities:identities=80,images=20,size=16", "image_size": None, "batch_size": 16}
_FACE_SMOKE = {**_FACE, "data": "identities:identities=40,images=4,size=16", "batch_size": 4}
_16_PIXELS = {"image_size": 16}

_SETTINGS = {
  "cifar10_lenet": _Setting(128, _HALVES, 1024, 0.05, 5, _16_PIXELS, _DIGITS),
  "cifar10_alexnet": _Setting(128, _HALVES, 512, 0.02, 5, _16_PIXELS, _DIGITS),
  "cifar10_googlenet": _Setting(128, _HALVES, 256, 0.02, 5, _16_PIXELS, _DIGITS),
  "cifar10_resnet20": _Setting(128, _HALVES, 512, 0.1, 5, _16_PIXELS, _DIGITS),
  "imagenet_googlenet": _Setting(60, (), 256, 0.02, 2, _16_PIXELS, _DIGITS),
  "imagenet_resnet10": _Setting(64, (), 256, 0.1, 2, _16_PIXELS, _DIGITS),
  "face": _Setting(7, (4 / 7, 6 / 7), 256, 0.02, 2, _FACE, _FACE_SMOKE),
  "flickr_5": _Setting(55, (), 1024, 0.05, 5, _FLICKR, _FLICKR_SMOKE),
  "flickr_13": _Setting(55, (), 392, 0.05, 13, _FLICKR, _FLICKR_SMOKE),
}
_SMOKE_ROUNDS = 4

SMOKE_NOTE = "the smallest network on digits for a few rounds, only to check that it runs."


def theta_flags(algorithm: str, value: float | None = None) -> dict[str, Any]:
  """Returns the flags that select an algorithm, as the paper names it, and theta; none for BSP.

  DGC also clips gradients (``DGC_CLIP_NORM``), at every scale.
  """
  if algorithm == "BSP":
    return {}
  clipping = {"clip_norm": DGC_CLIP_NORM} if algorithm == "DGC" else {}
  return {"algorithm": algorithm.lower(), _THETAS[algorithm]: value, **clipping}


def cell(
  label: str,
  preset: str,
  options: Options,
  top1: float = math.nan,
  reference: str | None = None,
  loss: float | None = None,
  small: Options = MappingProxyType({}),
  smoke: Options = MappingProxyType({}),
) -> Cell:
  """Returns a cell of a table.

  Args:
    label: label of the table's row.
    preset: name of the preset (tables 2 to 5) without ``decentralized_``.
    options: flags that replace the preset's.
    top1: the accuracy in percent that the paper prints, or NaN.
    reference: label of the cell relative to which this cell's loss of accuracy is measured.
    loss: the loss of accuracy in points that the paper prints, or None.
    small: further flags at scale ``small``.
    smoke: further flags at scale ``smoke``.
  """
  setting = _SETTINGS[preset]
  clients = options.get("clients", setting.clients)
  divisor = 1 if options.get("algorithm") == "fedavg" else clients
  lengths = _lengths(setting, options, setting.rounds)
  scales = {
    "small": {**setting.small, **lengths, "lr": setting.rate / divisor, **small},
    "smoke": {**setting.smoke, **_lengths(setting, options, _SMOKE_ROUNDS), **smoke},
  }
  paper = (top1, math.nan) if math.isfinite(top1) else None
  return Cell(label, f"decentralized_{preset}", options, scales, paper, reference, loss)


def grid(
  preset: str,
  thetas: Mapping[str, float],
  prefix: str = "",
  partitions: Mapping[str, Options] = PARTITIONS,
  cell_values: Callable[[str, str], Mapping[str, Any]] = lambda name, column: {},
  **options: Any,
) -> tuple[Cell, ...]:
  """Returns the cells of BSP, and of each algorithm with its theta, on every partition.

  Args:
    preset: name of the preset, as for :func:`cell`.
    thetas: algorithm -> theta.
    prefix: beginning of the labels. Losses are relative to BSP on IID data with this prefix.
    partitions: column -> flags of the partition.
    cell_values: (algorithm, column) -> further arguments of :func:`cell`, for example ``top1``.
    **options: flags of all cells.
  """
  cells = []
  for name in ("BSP", *thetas):
    for column, partition in partitions.items():
      label, reference = f"{prefix}{name}, {column}", f"{prefix}BSP, IID"
      flags = {**options, **theta_flags(name, thetas.get(name)), **partition}
      values = {"reference": None if label == reference else reference}
      cells.append(cell(label, preset, flags, **{**values, **cell_values(name, column)}))
  return tuple(cells)


def _lengths(setting: _Setting, options: Options, rounds: int) -> dict[str, Any]:
  """Returns the flags for the length, learning-rate drops and sparsity warm-up of a short run."""
  drops = tuple(round(share * rounds) for share in setting.boundaries) or None
  lengths = {"epochs": None, "rounds": rounds, "eval_every": rounds // 4, "lr_boundaries": drops}
  warmup = options.get("sparsity_warmup_epochs")
  if warmup is not None:
    warmup_rounds = max(1, round(warmup * rounds / setting.epochs))
    lengths |= {"sparsity_warmup_epochs": None, "sparsity_warmup_rounds": warmup_rounds}
  return lengths


def describe_small(preset: str, data: str = "images of 16 pixels") -> str:
  """Returns a text that describes the runs of a preset at scale ``small``."""
  setting = _SETTINGS[preset]
  return (
    f"{data}; {setting.rounds:,} rounds replace the {setting.epochs} epochs, with learning-rate "
    f"drops and warm-ups at the same shares of the run. The learning rate is {setting.rate:g} for "
    "FedAvg, which averages over the K clients, and a K-th of that for the others, which add up. "
    f"At every scale DGC clips gradients to {DGC_CLIP_NORM:g} / sqrt(K); the paper prints no value."
  )


def scale_notes(preset: str, more: str = "") -> dict[str, str]:
  """Returns scale -> text that describes the runs of a preset, with ``more`` at scale small."""
  return {"small": describe_small(preset) + more, "smoke": SMOKE_NOTE}
