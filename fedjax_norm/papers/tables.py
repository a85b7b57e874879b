"""Types for a paper's table: cells (runs), values printed in the paper, and claims.

A cell is a preset with a few flags changed. At the smaller scales (``--scale``) more flags change.
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
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import define, format_value, given
from fedjax_norm.cli.method_choice import Choice
from fedjax_norm.cli.train import Make
from fedjax_norm.options import make
from fedjax_norm.study.savings import Degree

BINARIES: dict[str, type[Config] | Choice] = {
  "fedavg": methods.FEDAVG_CONFIG,
  "ssgd": methods.SSGD_CONFIG,
  "decentralized": methods.DECENTRALIZED,
  "split": split_options.ALGORITHM,
}
"""First word of a preset's name -> the flags of the program that the preset is for."""

_PRESETS = Path(presets.__file__).parent


class Cell(NamedTuple):
  """One run of a table.

  Attributes:
    label: label of the table's row.
    preset: name of a preset.
    options: flag -> value that replaces the preset's; None removes a flag.
    scales: name of a scale -> further flags that change at this scale, as in ``options``.
    paper: the paper's (top-1, top-5) in percent, NaN where not printed; None if neither is.
    reference: label of the cell relative to which this cell's loss of accuracy is measured.
    paper_loss: the loss of accuracy that the paper prints, in points, or None.
  """

  label: str
  preset: str
  options: Mapping[str, Any]
  scales: Mapping[str, Mapping[str, Any]]
  paper: tuple[float, float] | None = None
  reference: str | None = None
  paper_loss: float | None = None

  @property
  def name(self) -> str:
    """Name of the run's folder; cells with the same flags share a folder."""
    options = sorted(self.options.items())
    texts = (f"{key}={format_value(value)}" for key, value in options if value is not None)
    return "-".join([self.preset, *texts])

  @property
  def make_program(self) -> Make:
    """Function that builds the run's program (see ``cli.train.Make``)."""
    return split_options.make if self.preset.startswith("split") else train.make

  def config(self, scale: str, **options: Any) -> Config:
    """Returns the run's flags at a scale; ``options`` replace all others."""
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
  """Returns flag -> value for the flags that a preset sets."""
  values = flags.FlagValues()
  define(kind, values)
  values([name, *_file(name)])
  return given(kind, values)


class Claim(NamedTuple):
  """A claim of a paper about a table's values.

  Attributes:
    text: the claim in one line.
    labels: labels of the cells; for savings, "<degree>, SkewScout" or "<degree>, Oracle".
    margin: function from the values of ``labels`` to the margin by which the claim holds, which is
      not positive if the claim does not hold.
    measure: which values: ``top1`` in percent; ``loss``, points of top-1 below the reference cell;
      ``saving``, BSP's bytes divided by the run's; ``client_flops`` or ``sent``, the clients' cost
      at the highest accuracy that all cells reach, divided by the first cell's.
  """

  text: str
  labels: tuple[str, ...]
  margin: Callable[..., float]
  measure: str = "top1"


class Table(NamedTuple):
  """A table or a figure of a paper.

  Attributes:
    name: name of the table for ``--tables``.
    title: title, in one line.
    cells: rows of the table.
    claims: claims of the paper about the table.
    notes: contradictions in the paper, and settings that it does not state.
    settings: scale -> differences from the paper's setting.
    figure: plot to draw: ``curves`` (learning curves); ``bars`` (accuracies, grouped by the part of
      a label before its last comma); ``client_flops`` or ``sent`` (accuracy against this cost of
      the clients); or an empty text for no plot.
    degrees: degrees of skew, each with runs of BSP, all thetas and SkewScout, for which the saved
      communication is printed and drawn.
    tolerance: points of accuracy below BSP up to which a run of ``degrees`` counts as equal.
    choices: function from the cells' flags to a note on settings that the paper does not state.
    scale_note: models, data and numbers of clients at a scale other than ``full``; set by ``at``.
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
  scale_note: str = ""

  def at(self, scale: str) -> "Table":
    """Returns the table with ``scale_note`` set and the note of ``choices`` added to ``notes``."""
    configs = [cell.config(scale) for cell in self.cells]
    notes = (self.choices(configs),) if self.choices else ()
    short = "" if scale == "full" else f"run at scale {scale}: {_summarize(configs)}"
    return self._replace(notes=self.notes + notes, choices=None, scale_note=short)

  def paper_values(self, measure: str) -> dict[str, float]:
    """Returns label -> the paper's ``top1`` or ``loss``; no labels for any other measure."""
    cells = {cell.label: cell for cell in self.cells}
    top1 = {label: cell.paper[0] for label, cell in cells.items() if cell.paper}
    if measure == "top1":
      return top1
    losses = {}
    for label, cell in cells.items() if measure == "loss" else ():
      loss = top1.get(cell.reference or "", math.nan) - top1.get(label, math.nan)
      loss = loss if cell.paper_loss is None else cell.paper_loss
      if math.isfinite(loss):
        losses[label] = loss
    return losses


def _summarize(configs: Sequence[Config]) -> str:
  """Returns the models, data sets and numbers of clients as text."""
  models = dict.fromkeys(config.model_name for config in configs)
  data = dict.fromkeys(config.data.partition(":")[0] for config in configs)
  clients = dict.fromkeys(str(config.clients) for config in configs if config.clients)
  parts = [" and ".join(models), " and ".join(data)]
  return ", ".join([*parts, f"{' or '.join(clients)} clients"] if clients else parts)


# The functions below are margins of claims about accuracies (see ``Claim.margin``), or return one:
# a number of points, positive if the claim holds.


def rising(*accuracies: float) -> float:
  """Margin of "each value is above the previous one": the smallest rise."""
  return min(b - a for a, b in itertools.pairwise(accuracies))


def falling(*accuracies: float) -> float:
  """Margin of "each value is below the previous one": the smallest fall."""
  return rising(*accuracies[::-1])


def least(points: float) -> Callable[..., float]:
  """Returns the margin function of "all values are above ``points``", for losses or ratios."""
  return lambda *losses: min(losses) - points


def best(first: float, *others: float) -> float:
  """Margin of "the first accuracy is the best": its lead over the second best."""
  return first - max(others)


def spread_above(points: float) -> Callable[..., float]:
  """Returns the margin function of "best and worst accuracy differ by more than ``points``"."""
  return lambda *accuracies: max(accuracies) - min(accuracies) - points


def below(points: float) -> Callable[[float], float]:
  """Returns the margin function of "the accuracy is below ``points`` percent"."""
  return lambda accuracy: points - accuracy


def near(points: float) -> Callable[..., float]:
  """Returns the margin function of "the first is less than ``points`` below the others"."""
  return lambda first, *others: points - (max(others) - first)


def all_within(points: float) -> Callable[..., float]:
  """Returns the margin function of "any two accuracies differ by less than ``points``"."""
  return lambda *accuracies: points - (max(accuracies) - min(accuracies))


def all_near(points: float) -> Callable[..., float]:
  """Returns the margin function of "the others are less than ``points`` below the first"."""
  return lambda first, *others: points - (first - min(others))
