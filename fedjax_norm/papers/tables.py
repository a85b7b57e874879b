"""What a paper's table is as data: its cells, the paper's figures and what it claims.

A cell is a preset with some flags changed, so that the presets are the only place where a paper's
setting stands; a smaller scale changes some flags more.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from fedjax_norm import presets
from fedjax_norm.cli import methods, split_options, train
from fedjax_norm.cli.choice import Choice
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import define, given, format_value
from fedjax_norm.cli.train import Make
from fedjax_norm.options import make
from fedjax_norm.study.savings import Degree

BINARIES: dict[str, type[Config] | Choice] = {
  "fedavg": methods.FEDAVG_CONFIG,
  "ssgd": methods.SSGD_CONFIG,
  "decentralized": methods.DECENTRALIZED,
  "split": split_options.ALGORITHM,
}
"""The flags of a preset, by the word that its name begins with."""

_PRESETS = Path(presets.__file__).parent


class Cell(NamedTuple):
  """One run of a table.

  Attributes:
    label: as in the table.
    preset: the name of a file in ``presets``, without its ending.
    options: flag to value, changed in the preset; None is a flag that is not given.
    scales: what a scale changes besides, by its name.
    paper: top-1 and top-5 in percent, NaN for one that the paper does not print; None for both.
    base: the label of the cell that its loss of accuracy is counted from.
    paper_loss: that loss in points, where the paper prints it.
  """

  label: str
  preset: str
  options: Mapping[str, Any]
  scales: Mapping[str, Mapping[str, Any]]
  paper: tuple[float, float] | None = None
  base: str | None = None
  paper_loss: float | None = None

  @property
  def name(self) -> str:
    """Of its run's folder; cells with the same flags have the same one."""
    options = sorted(self.options.items())
    given = (f"{key}={format_value(value)}" for key, value in options if value is not None)
    return "-".join([self.preset, *given])

  @property
  def maker(self) -> Make:
    """Makes its program (see ``training.Make``)."""
    return split_options.make if self.preset.startswith("split") else train.make

  def config(self, scale: str, **options: Any) -> Config:
    """Its flags at a scale, with some more options."""
    changed = {**self.options, **self.scales.get(scale, {}), **options}
    binary = BINARIES[self.preset.partition("_")[0]]
    kind: Any = binary
    if isinstance(binary, Choice):
      kind = binary.config(changed.get(binary.name) or binary.value_in(_file(self.preset)))
    changed = {**_preset(self.preset, kind), **changed}
    return make(kind, **{name: v for name, v in changed.items() if v is not None})


def _file(name: str) -> list[str]:
  return [f"--flagfile={_PRESETS / name}.flags"]


@functools.cache
def _preset(name: str, kind: type[Config]) -> Mapping[str, Any]:
  """The options that a preset gives."""
  values = flags.FlagValues()
  define(kind, values)
  values([name, *_file(name)])
  return given(kind, values)


class Claim(NamedTuple):
  """Something that a paper says of a table's figures.

  Attributes:
    text: one line.
    labels: the cells it is about; for savings those of ``savings``.
    margin: their figures, in that order -> by how much it holds; negative where it does not.
    measure: which figures: ``top1`` in percent; ``loss`` in points of it below the cells' bases;
      ``saving``, how many times less is sent than by BSP; ``client_flops`` or ``sent``, how many
      times as much as in the first cell the clients spend for an accuracy that all cells reach.
  """

  text: str
  labels: tuple[str, ...]
  margin: Callable[..., float]
  measure: str = "top1"


class Table(NamedTuple):
  """A table or a figure of a paper.

  Attributes:
    name: for ``--tables``.
    title: one line.
    cells: its rows.
    claims: the paper's.
    notes: what is odd in it, and what the paper leaves open.
    settings: scale to how it differs there from the paper's setting.
    figure: what is drawn: ``curves`` of learning; ``bars`` of accuracy, which are grouped by what
      a label has before its last comma; accuracy against ``client_flops`` or ``sent``; or nothing.
    degrees: of skew, with runs of BSP, of all thetas and of SkewScout; what they save is told too,
      and drawn.
    tolerance: points of accuracy that count as equal then.
    choices: each cell's flags at a scale -> a note of what we chose ourselves there.
    here: what stands in for the paper's setting, where something does (see ``at``).
  """

  name: str
  title: str
  cells: tuple[Cell, ...]
  claims: tuple[Claim, ...]
  notes: tuple[str, ...]
  settings: Mapping[str, str]
  figure: str = "curves"
  degrees: tuple[Degree, ...] = ()
  tolerance: float = 1.0
  choices: Callable[[Sequence[Config]], str] | None = None
  here: str = ""

  def at(self, scale: str) -> "Table":
    """The same as it is run at a scale: with all its notes, and what stands in below ``full``."""
    configs = [cell.config(scale) for cell in self.cells]
    notes = (self.choices(configs),) if self.choices else ()
    here = "" if scale == "full" else f"here, at scale {scale}: {_in_short(configs)}"
    return self._replace(notes=self.notes + notes, choices=None, here=here)

  def papers(self, measure: str) -> dict[str, float]:
    """The paper's own figures by label, of the cells that it prints one for."""
    cells = {cell.label: cell for cell in self.cells}
    top1 = {label: cell.paper[0] for label, cell in cells.items() if cell.paper}
    if measure == "top1":
      return top1
    losses = {}
    for label, cell in cells.items() if measure == "loss" else ():
      loss = top1.get(cell.base or "", math.nan) - top1.get(label, math.nan)
      loss = loss if cell.paper_loss is None else cell.paper_loss
      if math.isfinite(loss):
        losses[label] = loss
    return losses


def _in_short(configs: Sequence[Config]) -> str:
  """Which models learn which data on how many clients."""
  models = dict.fromkeys(config.model_name for config in configs)
  data = dict.fromkeys(config.data.partition(":")[0] for config in configs)
  clients = dict.fromkeys(str(config.clients) for config in configs if config.clients)
  told = [" and ".join(models), " and ".join(data)]
  return ", ".join([*told, f"{' or '.join(clients)} clients"] if clients else told)


def rising(*accuracies: float) -> float:
  """The least step from one to the next: each is above the one before it."""
  return min(b - a for a, b in itertools.pairwise(accuracies))


def falling(*accuracies: float) -> float:
  """The least step down from one to the next."""
  return rising(*accuracies[::-1])


def least(points: float) -> Callable[..., float]:
  """The least of all is above so many points."""
  return lambda *losses: min(losses) - points


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


def alike(points: float) -> Callable[..., float]:
  """All are within so many points."""
  return lambda *accuracies: points - (max(accuracies) - min(accuracies))


def all_near(points: float) -> Callable[..., float]:
  """Each of the others is less than so many points below the first."""
  return lambda first, *others: points - (first - min(others))
