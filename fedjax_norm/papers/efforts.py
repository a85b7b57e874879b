"""What an accuracy costs the clients (paper 003, figures 3 and 4): operations and bytes, as data.

Runs of unlike algorithms are compared at the accuracy that all of them reach, by what all clients
together had computed, sent and received until then.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from fedjax_norm.cli import text_tables
from fedjax_norm.plots import curves
from fedjax_norm.study.cells import Result
from fedjax_norm.training.storage.csv_rows import Row

AXES = {
  "client_flops": ("operations of all clients", "FLOP"),
  "sent": ("sent and received by all clients", "B"),
}
"""The measures: what each is called, and its unit."""


class Spent(NamedTuple):
  """What all clients together had spent at an evaluation.

  Attributes:
    round: of the evaluation.
    top1: the test accuracy then, 0 to 1.
    client_flops: operations of training.
    sent: bytes, both ways.
  """

  round: int
  top1: float
  client_flops: float
  sent: int


def spent(rows: Sequence[Row], example_flops: float) -> list[Spent]:
  """What had been spent at each evaluation of a run.

  Split learning counts the operations of its clients itself. Any other client trains the whole
  model, so that each of its examples takes what a training step of that does.

  Args:
    rows: of ``metrics.csv``: ``examples`` since the evaluation before, bytes since the start.
    example_flops: of training the whole model on one example.
  """
  found, examples = [], 0
  for row in rows:
    examples += row["examples"]
    flops = row["client_flops"] if "client_flops" in row else examples * example_flops
    sent = row["bytes_up"] + row["bytes_down"]
    found.append(Spent(row["round"], row["top1"], float(flops), sent))
  return found


def of(results: Mapping[str, Result]) -> dict[str, list[Spent]]:
  """The same of several runs; operations are counted only where no column tells them."""
  found = {}
  for label, result in results.items():
    told = all("client_flops" in row for row in result.rows)
    found[label] = spent(result.rows, math.nan if told else result.example_flops())
  return found


def common(runs: Mapping[str, Sequence[Spent]]) -> float:
  """The highest accuracy that all runs reach at an evaluation; NaN if one has none."""
  if not all(runs.values()):
    return math.nan
  return min(max(at.top1 for at in run) for run in runs.values())


def reached(runs: Mapping[str, Sequence[Spent]]) -> dict[str, Spent]:
  """The first evaluation of each run with the common accuracy; nothing if there is none."""
  goal = common(runs)
  if math.isnan(goal):
    return {}
  return {label: next(at for at in run if at.top1 >= goal) for label, run in runs.items()}


def times(runs: Mapping[str, Sequence[Spent]], measure: str) -> dict[str, float]:
  """How many times as much as the first run each had spent at the common accuracy.

  Args:
    runs: label to what it spent; split learning's first.
    measure: of ``AXES``.
  """
  found = {label: getattr(at, measure) for label, at in reached(runs).items()}
  first = next(iter(found.values()), math.nan)
  return {label: found[label] / first if found else math.nan for label in runs}


def render(runs: Mapping[str, Sequence[Spent]]) -> str:
  """What each had spent at the common accuracy, as a Markdown table."""
  at, ratios = reached(runs), {measure: times(runs, measure) for measure in AXES}
  if not at:
    return "A run diverged before its first evaluation, so that there is no accuracy in common."
  first = next(iter(runs))
  columns = [(name, f"by that of {first}") for name, _ in AXES.values()]
  heads = [f"run, at {common(runs):.2%}", "round", *(head for pair in columns for head in pair)]
  rows = []
  for label, spent_at in at.items():
    cells = [label, f"{spent_at.round:,}"]
    for measure, (_, unit) in AXES.items():
      value = EngFormatter(unit, places=2)(getattr(spent_at, measure))
      cells += [value, f"{ratios[measure][label]:.2f}"]
    rows.append(cells)
  return text_tables.as_markdown(heads, rows)


def draw(runs: Mapping[str, Sequence[Spent]], measure: str, title: str) -> Figure:
  """Test accuracy against what was spent, on a logarithmic axis.

  Args:
    runs: label to what it spent.
    measure: of ``AXES``.
    title: one line.
  """
  name, unit = AXES[measure]
  points = {
    label: [{"round": getattr(at, measure), "top1": at.top1} for at in run]
    for label, run in runs.items()
  }
  figure = curves.compare_figure(points, title, leaders=False)
  (axes,) = figure.axes
  axes.set_xscale("log")
  axes.set_xlabel(name)
  low, high = axes.get_xlim()
  # Decades alone would be hardly any ticks, and many would write over one another.
  within = (1, 2, 5) if high < 20 * low else (1, 3) if high < 300 * low else (1,)
  axes.xaxis.set_major_locator(LogLocator(10, within))
  axes.xaxis.set_major_formatter(EngFormatter(unit))
  axes.xaxis.set_minor_formatter(NullFormatter())
  axes.grid(axis="x", color="0.93", linewidth=0.8)
  return figure


def as_csv(runs: Mapping[str, Sequence[Spent]]) -> str:
  """A line an evaluation of each run; the accuracy in percent."""
  head = ["cell", "round", "top1", "client_flops", "bytes"]
  points = [(label, at) for label, run in runs.items() for at in run]
  rows = [[label, at.round, 100 * at.top1, at.client_flops, at.sent] for label, at in points]
  return text_tables.as_csv(head, rows)
