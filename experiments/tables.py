"""What a paper's table is as data: its cells, the paper's figures and what it claims.

A cell is a preset with some flags changed, so that the presets are the only place where a paper's
setting stands; a smaller scale changes some flags more.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments import fedavg, ssgd
from experiments.flags import Config, FedAvgFlags, SsgdFlags, define, parse
from experiments.training import Prepare

BINARIES: dict[str, tuple[type, Prepare]] = {
  "fedavg": (FedAvgFlags, fedavg.prepare),
  "ssgd": (SsgdFlags, ssgd.prepare),
}
"""The flags and the program of a preset, by the word that its name begins with."""

_PRESETS = Path(__file__).parent / "presets"


class Cell(NamedTuple):
  """One run of a table.

  Attributes:
    label: as in the table.
    preset: the name of a file in ``presets``, without its ending.
    options: flag to value, changed in the preset; None is a flag that is not given.
    scales: what a scale changes besides, by its name.
    paper: top-1 and top-5 in percent, or None where the paper prints none.
  """

  label: str
  preset: str
  options: Mapping[str, Any]
  scales: Mapping[str, Mapping[str, Any]]
  paper: tuple[float, float] | None = None

  @property
  def name(self) -> str:
    """Of its run's folder; cells with the same flags have the same one."""
    given = (f"{key}={value}" for key, value in sorted(self.options.items()) if value is not None)
    return "-".join([self.preset, *given])

  @property
  def prepare(self) -> Prepare:
    """Makes its program (see ``training.Prepare``)."""
    return BINARIES[self.preset.partition("_")[0]][1]

  def config(self, scale: str, **options: Any) -> Config:
    """Its flags at a scale, with some more options."""
    kind, _ = BINARIES[self.preset.partition("_")[0]]
    values = flags.FlagValues()
    define(kind, values)
    values([self.preset, f"--flagfile={_PRESETS / self.preset}.flags"])
    changed = {**self.options, **self.scales.get(scale, {}), **options}
    return dataclasses.replace(parse(kind, values), **changed)


class Claim(NamedTuple):
  """Something that a paper says of a table's top-1 accuracies.

  Attributes:
    text: one line.
    labels: the cells it is about.
    margin: their accuracies in percent, in that order -> by how many points it holds; negative
      where it does not.
  """

  text: str
  labels: tuple[str, ...]
  margin: Callable[..., float]


class Table(NamedTuple):
  """A table or a figure of a paper.

  Attributes:
    name: for ``--tables``.
    title: one line.
    cells: its rows.
    claims: the paper's.
    notes: what is odd in it, and what the paper leaves open.
    settings: scale to how it differs there from the paper's setting.
    figure: whether its learning curves are a figure of the paper.
  """

  name: str
  title: str
  cells: tuple[Cell, ...]
  claims: tuple[Claim, ...]
  notes: tuple[str, ...]
  settings: Mapping[str, str]
  figure: bool = True


def rising(*accuracies: float) -> float:
  """The least step from one to the next: each is above the one before it."""
  return min(b - a for a, b in itertools.pairwise(accuracies))


def best(first: float, *others: float) -> float:
  """The lead of the first over the best of the others."""
  return first - max(others)


def spread_above(points: float) -> Callable[..., float]:
  """The best and the worst differ by more than so many points."""
  return lambda *accuracies: max(accuracies) - min(accuracies) - points


def below(points: float) -> Callable[[float], float]:
  """An accuracy is below so many percent."""
  return lambda accuracy: points - accuracy


def near(points: float) -> Callable[..., float]:
  """The first is less than so many points below each of the others."""
  return lambda first, *others: points - (max(others) - first)
