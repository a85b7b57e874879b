"""FLOPs and bytes that the clients need to reach an accuracy (paper 003, figures 3 and 4).

Compares algorithms at the common accuracy: the highest test accuracy that all of them reach. The
costs are those of all clients together, from the start of training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from fedjax_norm.cli import text_tables
from fedjax_norm.plots import base, curves
from fedjax_norm.study.cells import Result
from fedjax_norm.training.storage.csv_rows import Row

MEASURES = {
  "client_flops": ("operations of all clients", "FLOP"),
  "sent": ("sent and received by all clients", "B"),
}
"""Field of ``ClientCost`` -> (title of the axis, unit)."""


class ClientCost(NamedTuple):
  """The cost of all clients together, from the start of the run to an evaluation.

  Attributes:
    round: round of the evaluation.
    top1: test accuracy, 0 to 1.
    client_flops: floating-point operations (FLOPs) of training.
    sent: bytes that the clients sent and received.
  """

  round: int
  top1: float
  client_flops: float
  sent: int


def costs_of_run(rows: Sequence[Row], example_flops: float) -> list[ClientCost]:
  """Returns the clients' cost at each evaluation of a run.

  Args:
    rows: rows of the run's ``metrics.csv``. ``client_flops`` is there only for split learning; with
      all other algorithms, clients train the whole model on all ``examples`` since the last row.
    example_flops: FLOPs of training the whole model on one example.
  """
  costs, examples = [], 0
  for row in rows:
    examples += row["examples"]
    flops = row["client_flops"] if "client_flops" in row else examples * example_flops
    sent = row["bytes_up"] + row["bytes_down"]
    costs.append(ClientCost(row["round"], row["top1"], float(flops), sent))
  return costs


def costs_of_runs(results: Mapping[str, Result]) -> dict[str, list[ClientCost]]:
  """Returns label of a run -> the clients' cost at each evaluation."""
  costs = {}
  for label, result in results.items():
    recorded = all("client_flops" in row for row in result.rows)
    costs[label] = costs_of_run(result.rows, math.nan if recorded else result.example_flops())
  return costs


def common_accuracy(runs: Mapping[str, Sequence[ClientCost]]) -> float:
  """Returns the highest test accuracy that all runs reach; NaN if a run has no evaluation."""
  if not all(runs.values()):
    return math.nan
  return min(max(cost.top1 for cost in costs) for costs in runs.values())


def at_common_accuracy(runs: Mapping[str, Sequence[ClientCost]]) -> dict[str, ClientCost]:
  """Returns label -> the run's cost when it first reaches the common accuracy; empty if NaN."""
  goal = common_accuracy(runs)
  if math.isnan(goal):
    return {}
  return {label: next(c for c in costs if c.top1 >= goal) for label, costs in runs.items()}


def ratios(runs: Mapping[str, Sequence[ClientCost]], measure: str) -> dict[str, float]:
  """Returns label -> the run's cost at the common accuracy, divided by the first run's.

  The cost ``measure`` is a key of ``MEASURES``.
  """
  costs = {label: getattr(cost, measure) for label, cost in at_common_accuracy(runs).items()}
  first = next(iter(costs.values()), math.nan)
  return {label: costs[label] / first if costs else math.nan for label in runs}


def render(runs: Mapping[str, Sequence[ClientCost]]) -> str:
  """Returns the costs at the common accuracy as a Markdown table."""
  costs, ratios_of = at_common_accuracy(runs), {name: ratios(runs, name) for name in MEASURES}
  if not costs:
    return "A run diverged before its first evaluation, so the runs have no common accuracy."
  first = next(iter(runs))
  columns = [(title, f"relative to {first}") for title, _ in MEASURES.values()]
  heads = [f"run, at {common_accuracy(runs):.2%}", "round", *(h for pair in columns for h in pair)]
  rows = []
  for label, cost in costs.items():
    cells = [label, f"{cost.round:,}"]
    for measure, (_, unit) in MEASURES.items():
      value = EngFormatter(unit, places=2)(getattr(cost, measure))
      cells += [value, f"{ratios_of[measure][label]:.2f}"]
    rows.append(cells)
  return text_tables.as_markdown(heads, rows)


def draw(runs: Mapping[str, Sequence[ClientCost]], measure: str, title: str) -> Figure:
  """Draws test accuracy against the cost ``measure``, a key of ``MEASURES``, on a log axis."""
  name, unit = MEASURES[measure]
  points = {
    label: [{"round": getattr(cost, measure), "top1": cost.top1} for cost in costs]
    for label, costs in runs.items()
  }
  figure = curves.compare_figure(points, title, leaders=False)
  (axes,) = figure.axes
  base.log_axis(axes, EngFormatter(unit))
  axes.set_xlabel(name)
  return figure


def as_csv(runs: Mapping[str, Sequence[ClientCost]]) -> str:
  """Returns CSV text, one line per evaluation of each run; accuracies in percent."""
  head = ["cell", "round", "top1", "client_flops", "bytes"]
  costs = [(label, cost) for label, run in runs.items() for cost in run]
  rows = [[label, c.round, 100 * c.top1, c.client_flops, c.sent] for label, c in costs]
  return text_tables.as_csv(head, rows)
