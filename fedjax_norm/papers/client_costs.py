"""FLOPs and bytes that the clients need to reach an accuracy (paper 003, figures 3 and 4).

Compares algorithms at the common accuracy: the highest test accuracy that all of them reach with
the same seed. The costs are those of all clients together, from the start of training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from fedjax_norm.cli import text_tables, train
from fedjax_norm.cli.finished_run import saved_options
from fedjax_norm.models.flops import step_flops
from fedjax_norm.plots import base, curves
from fedjax_norm.study.contender import Contender, SeedRun
from fedjax_norm.study.planning.plan import SOURCES
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.storage.run_folder import read_config

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


def by_seed(runs: Mapping[str, Contender]) -> dict[int, dict[str, list[ClientCost]]]:
  """Returns seed -> label -> the clients' cost at each evaluation, for seeds that all runs have."""
  seeds = [{run.seed: run for run in one.runs} for one in runs.values()]
  if not all(seeds):
    return {}
  flops = {label: _example_flops(one.runs[0]) for label, one in runs.items()}
  return {
    seed: {
      label: costs_of_run(of[seed].rows, flops[label])
      for label, of in zip(runs, seeds, strict=True)
    }
    for seed in seeds[0]
    if all(seed in of for of in seeds)
  }


def _example_flops(run: SeedRun) -> float:
  """Returns the FLOPs of training a run's model on one example; NaN if its rows have them."""
  if all("client_flops" in row for row in run.rows):
    return math.nan
  config = saved_options(read_config(run.path))
  config, task = train.prepare(config, SOURCES.of(config))
  size = config.batch_size
  flops = step_flops(task.model, task.image_shape, batch_size=size, input_gradient=False)
  return flops.training / size


def at_common_accuracy(runs: Mapping[str, Sequence[ClientCost]]) -> dict[str, ClientCost]:
  """Returns label -> the run's cost when it first reaches the common accuracy."""
  goal = min(max(cost.top1 for cost in costs) for costs in runs.values())
  return {label: next(c for c in costs if c.top1 >= goal) for label, costs in runs.items()}


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


def as_csv(runs: Mapping[int, Mapping[str, Sequence[ClientCost]]]) -> str:
  """Returns CSV text, one line per evaluation of each run and seed; accuracies in percent."""
  head = ["seed", "cell", "round", "top1", "client_flops", "bytes"]
  costs = [(seed, label, c) for seed, of in runs.items() for label, run in of.items() for c in run]
  rows = [[*of, c.round, 100 * c.top1, c.client_flops, c.sent] for *of, c in costs]
  return text_tables.as_csv(head, rows)
