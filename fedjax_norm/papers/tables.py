"""Types for a paper's table: cells (runs), values printed in the paper, and claims.

A cell is a preset with a few flags changed. At the smaller scales (``--scale``) more flags change.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from fedjax_norm import presets
from fedjax_norm.cli import methods, split_options
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import define, format_value, given
from fedjax_norm.cli.method_choice import Choice
from fedjax_norm.options import make, of
from fedjax_norm.study.planning.tuning import total_steps
from fedjax_norm.study.savings import Degree
from fedjax_norm.study.verdicts import Contrast, Statement

BINARIES: dict[str, type[Config] | Choice] = {
  "fedavg": methods.FEDAVG_CONFIG,
  "ssgd": methods.SSGD_CONFIG,
  "decentralized": methods.DECENTRALIZED,
  "split": split_options.ALGORITHM,
  "run": methods.ANY_METHOD,
}
"""First word of a preset's name -> the flags of the program that the preset is for."""

EFFORT, RUNGS = 4, (1, 2)
"""Quarters of a run's rounds: a final run, and the shorter and longer trials of learning rates."""

RATES = (0.03, 0.1, 0.3)
"""Learning rates that tuned cells try; further ones if the best is at an end."""

HOW_TUNED = (
  "Each cell has its own learning rate, chosen on a tenth of the examples: each rate is tried in a "
  "run of a quarter of the rounds, the best two in runs of half, with the first seed and a "
  "schedule of their own; rates fall along a cosine."
)

_PRESETS = Path(presets.__file__).parent


class Cell(NamedTuple):
  """One run of a table.

  Attributes:
    label: label of the table's row.
    preset: name of a preset.
    options: flag -> value that replaces the preset's; None removes a flag.
    scales: name of a scale -> further flags that change at this scale, as in ``options``.
    paper: the paper's values of the table's two measures in percent, NaN where not printed; None
      if neither is.
    reference: label of the cell relative to which this cell's loss of accuracy is measured.
    paper_loss: the loss of accuracy that the paper prints, in points, or None.
    rates: learning rates of which one is chosen on validation examples; empty if ``options``
      have its rate.
  """

  label: str
  preset: str
  options: Mapping[str, Any]
  scales: Mapping[str, Mapping[str, Any]]
  paper: tuple[float, float] | None = None
  reference: str | None = None
  paper_loss: float | None = None
  rates: tuple[float, ...] = ()

  @property
  def name(self) -> str:
    """Name of the run's folder; cells with the same flags share a folder."""
    options = sorted(self.options.items())
    texts = (f"{key}={format_value(value)}" for key, value in options if value is not None)
    return "-".join([self.preset, *texts])

  def work(self, seeds: int) -> float:
    """Returns the length of all trials and final runs, relative to one final run."""
    return total_steps(len(self.rates), False, seeds, EFFORT, RUNGS) / EFFORT

  def settings(self, scale: str) -> str:
    """Returns a checksum of what decides the runs: options other than the default, and rates."""
    config = self.config(scale)
    values = {one.name: getattr(config, one.name) for one in of(type(config))
              if getattr(config, one.name) != one.default}  # fmt: skip
    return f"{zlib.crc32(repr((config.algorithm, values, self.rates)).encode()):08x}"

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


class Value(NamedTuple):
  """What a claim is about, if it is not a cell's first measure, which its label stands for.

  Attributes:
    label: label of a cell; for bytes also "<degree>, Oracle".
    measure: ``loss``, points below the reference cell; ``bytes`` that the clients of a run
      send and receive; ``client_flops`` or ``sent``, the clients' cost when all cells of the table
      have reached the highest accuracy that they have in common.
  """

  label: str
  measure: str


def loss(label: str) -> Value:
  """Returns the loss of accuracy of a cell."""
  return Value(label, "loss")


class Claim(NamedTuple):
  """A claim of a paper about a table.

  Attributes:
    text: the claim in one line.
    statement: what has to hold; its keys are labels of cells, for their first measure, and
      objects of :class:`Value`.
    diverges: label of a cell of which the claim says that training diverges; None without one. If
      it did, and the other cells of ``statement`` train well, the claim is held; if training did
      not diverge, ``statement`` decides.
  """

  text: str
  statement: Statement
  diverges: str | None = None


class Table(NamedTuple):
  """A table or a figure of a paper.

  Attributes:
    name: name of the table for ``--table``.
    title: title, in one line.
    cells: rows of the table.
    claims: claims of the paper about the table.
    notes: contradictions in the paper, and settings that it does not state.
    settings: scale -> differences from the paper's setting.
    figure: plot to draw: ``curves`` (learning curves); ``bars`` (accuracies, grouped by the part of
      a label before its last comma); ``client_flops`` or ``sent`` (accuracy against this cost of
      the clients); or an empty text for no plot.
    degrees: degrees of skew, each with the labels of BSP, all thetas and SkewScout, for which the
      saved communication is printed and drawn.
    tolerance: points of accuracy below BSP up to which a run of ``degrees`` counts as equal.
    choices: function from the cells' flags to a note on settings that the paper does not state.
    baseline: label of the cell that has to train well, or no claim of the table is decided; by
      default the best cell of each claim.
    paper_tested: number of test examples in the paper, for the error of its accuracies.
    measures: the measure that claims compare, and another one that is printed beside it.
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
  baseline: str | None = None
  paper_tested: int = 10_000
  measures: tuple[str, str] = ("top1", "top5")

  def heading(self, scale: str) -> str:
    """Returns the title with the models, data and clients at a scale other than ``full``."""
    if scale == "full":
      return self.title
    return f"{self.title}; run at scale {scale}: {_summarize(self._configs(scale))}"

  def all_notes(self, scale: str) -> tuple[str, ...]:
    """Returns ``notes`` with the note of ``choices``."""
    return self.notes + ((self.choices(self._configs(scale)),) if self.choices else ())

  def in_accuracies(self, statement: Statement, printed: bool = False) -> Statement:
    """Returns a statement in which accuracies replace losses of accuracy.

    With ``printed``, losses that the paper prints stay.
    """
    cells = {cell.label: cell for cell in self.cells}

    def replaced(contrast: Contrast) -> Contrast:
      weights: dict[Any, float] = {}
      for key, weight in contrast.weights.items():
        if isinstance(key, Value) and key.measure == "loss":
          cell = cells[key.label]
          if not (printed and cell.paper_loss is not None):
            weights[cell.reference] = weights.get(cell.reference, 0.0) + weight
            key, weight = key.label, -weight
        weights[key] = weights.get(key, 0.0) + weight
      return contrast._replace(weights={key: w for key, w in weights.items() if w})

    return statement._replace(contrasts=tuple(map(replaced, statement.contrasts)))

  def paper_loss(self, cell: Cell) -> float:
    """Returns the paper's loss of accuracy of a cell in points; NaN if it cannot be known."""
    if cell.paper_loss is not None:
      return cell.paper_loss
    papers = {one.label: one.paper[0] for one in self.cells if one.paper}
    return papers.get(cell.reference or "", math.nan) - papers.get(cell.label, math.nan)

  def _configs(self, scale: str) -> list[Config]:
    return [cell.config(scale) for cell in self.cells]


def _summarize(configs: Sequence[Config]) -> str:
  """Returns the models, data sets and numbers of clients as text."""
  models = dict.fromkeys(config.model_name for config in configs)
  data = dict.fromkeys(config.data.partition(":")[0] for config in configs)
  clients = dict.fromkeys(str(config.clients) for config in configs if config.clients)
  parts = [" and ".join(models), " and ".join(data)]
  return ", ".join([*parts, f"{' or '.join(clients)} clients"] if clients else parts)
