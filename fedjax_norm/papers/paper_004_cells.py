"""What the tables and figures of paper 004 have in common: its cells and their scales."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fedjax_norm.papers.tables import Cell

Options = Mapping[str, Any]

IID: Options = MappingProxyType({"partition": "iid"})
PARTITIONS: Mapping[str, Options] = MappingProxyType({"IID": IID, "non-IID": MappingProxyType({})})
"""What the columns are called; the presets are non-IID by themselves, each class in one place."""

ALGORITHMS = ("Gaia", "FedAvg", "DGC")
MATCHED: Mapping[str, float] = MappingProxyType({"Gaia": 0.1, "FedAvg": 20, "DGC": 8})
"""The thetas of figures 1, 5, 6 and 19; 2 and 20 are without DGC."""

NOT_PRINTED = "The text does not print the heights of the bars, only the losses that stand here."

_THETAS = {"Gaia": "threshold", "FedAvg": "local_steps", "DGC": "sparsity_warmup_epochs"}


class _Setting(NamedTuple):
  """How a preset is made smaller."""

  epochs: int  # of the preset
  steps: tuple[float, ...]  # where its rate falls, as shares of the run; none of a polynomial
  rounds: int  # of the scale small
  # There, of a step with the mean of the partitions' gradients. What adds them up has a K-th.
  rate: float
  clients: int  # of the preset
  small: Options
  smoke: Options


_DIGITS = {"data": "digits", "model": "tiny", "image_size": None, "batch_size": 4}
_HALVES = (1 / 2, 3 / 4)
_ANYWHERE = {"region": None, "min_region_size": 0}
_FLICKR = {**_ANYWHERE, "data": "cifar10", "model": "lenet", "image_size": 16, "batch_size": 20}
_FLICKR_SMOKE = {**_DIGITS, **_ANYWHERE}
_FACE = {"data": "identities:identities=80,images=20,size=16", "image_size": None, "batch_size": 16}
_FACE_SMOKE = {**_FACE, "data": "identities:identities=40,images=4,size=16", "batch_size": 4}
_SIXTEEN = {"image_size": 16}

_SETTINGS = {
  "cifar10_lenet": _Setting(128, _HALVES, 1024, 0.05, 5, _SIXTEEN, _DIGITS),
  "cifar10_alexnet": _Setting(128, _HALVES, 512, 0.02, 5, _SIXTEEN, _DIGITS),
  "cifar10_googlenet": _Setting(128, _HALVES, 256, 0.02, 5, _SIXTEEN, _DIGITS),
  "cifar10_resnet20": _Setting(128, _HALVES, 512, 0.1, 5, _SIXTEEN, _DIGITS),
  "imagenet_googlenet": _Setting(60, (), 256, 0.02, 2, _SIXTEEN, _DIGITS),
  "imagenet_resnet10": _Setting(64, (), 256, 0.1, 2, _SIXTEEN, _DIGITS),
  "face": _Setting(7, (4 / 7, 6 / 7), 256, 0.02, 2, _FACE, _FACE_SMOKE),
  "flickr_5": _Setting(55, (), 1024, 0.05, 5, _FLICKR, _FLICKR_SMOKE),
  "flickr_13": _Setting(55, (), 392, 0.05, 13, _FLICKR, _FLICKR_SMOKE),
}
_SMOKE_ROUNDS = 4

SMOKE = "the smallest network on digits, a few rounds: only that it runs."


def theta(algorithm: str, value: float | None = None) -> dict[str, Any]:
  """The flags of an algorithm, by its name in the paper, and of its theta (none of BSP)."""
  if algorithm == "BSP":
    return {}
  return {"algorithm": algorithm.lower(), _THETAS[algorithm]: value}


def cell(
  label: str,
  preset: str,
  options: Options,
  top1: float = math.nan,
  base: str | None = None,
  loss: float | None = None,
  small: Options = MappingProxyType({}),
  smoke: Options = MappingProxyType({}),
) -> Cell:
  """A run of the paper.

  Args:
    label: of the cell.
    preset: of table 2 to 5, by the end of its name.
    options: flags besides the preset's.
    top1: the paper's, NaN if it prints none.
    base: whose accuracy its loss is counted from.
    loss: the paper's, where it prints that alone.
    small: more flags at the scale ``small``.
    smoke: more flags at the scale ``smoke``.
  """
  known = _SETTINGS[preset]
  clients = options.get("clients", known.clients)
  share = 1 if options.get("algorithm") == "fedavg" else clients
  lengths = _lengths(known, options, known.rounds)
  scales = {
    "small": {**known.small, **lengths, "lr": known.rate / share, **small},
    "smoke": {**known.smoke, **_lengths(known, options, _SMOKE_ROUNDS), **smoke},
  }
  paper = (top1, math.nan) if math.isfinite(top1) else None
  return Cell(label, f"decentralized_{preset}", options, scales, paper, base, loss)


def grid(
  preset: str,
  thetas: Mapping[str, float],
  prefix: str = "",
  partitions: Mapping[str, Options] = PARTITIONS,
  printed: Callable[[str, str], Mapping[str, Any]] = lambda name, column: {},
  **options: Any,
) -> tuple[Cell, ...]:
  """A run of BSP, and of each algorithm with its theta, on every partition.

  Args:
    preset: as of :func:`cell`.
    thetas: by the algorithms' names.
    prefix: of the labels; losses are counted from BSP on IID data with the same one.
    partitions: the columns and their flags.
    printed: (algorithm, column) -> what the paper prints of that run, and else is its own.
    **options: flags of all.
  """
  cells = []
  for name in ("BSP", *thetas):
    for column, partition in partitions.items():
      label, base = f"{prefix}{name}, {column}", f"{prefix}BSP, IID"
      flags = {**options, **theta(name, thetas.get(name)), **partition}
      own = {"base": None if label == base else base, **printed(name, column)}
      cells.append(cell(label, preset, flags, **own))
  return tuple(cells)


def _lengths(known: _Setting, options: Options, rounds: int) -> dict[str, Any]:
  """The flags of a run's length, and of what happens after shares of it."""
  falls = tuple(round(share * rounds) for share in known.steps) or None
  lengths = {"epochs": None, "rounds": rounds, "eval_every": rounds // 4, "lr_boundaries": falls}
  warmup = options.get("sparsity_warmup_epochs")
  if warmup is not None:
    each = max(1, round(warmup * rounds / known.epochs))
    lengths |= {"sparsity_warmup_epochs": None, "sparsity_warmup_rounds": each}
  return lengths


def small_words(preset: str, data: str = "images of 16 pixels") -> str:
  """What the scale ``small`` of a preset is, in words."""
  known = _SETTINGS[preset]
  return (
    f"{data}; {known.rounds:,} rounds stand for the {known.epochs} epochs, what happens in between "
    f"keeps its place in the run. The rate is {known.rate:g} for FedAvg and a K-th of that for the "
    "others, which add up what FedAvg averages."
  )
