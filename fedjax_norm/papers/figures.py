"""Draws the figures of the papers' tables."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from fedjax_norm.cli import seeds
from fedjax_norm.evaluation.measures import MEASURES
from fedjax_norm.papers import client_costs
from fedjax_norm.papers.results import TableResult, ended_degrees, outcomes
from fedjax_norm.papers.tables import Table
from fedjax_norm.plots import bars, curves
from fedjax_norm.study import savings
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.statistics import estimate


def draw(
  table: Table, result: TableResult, contenders: Mapping[str, Contender]
) -> tuple[Figure | None, str | None]:
  """Returns a table's figure and, of client costs, its points as CSV; None where there is none.

  Args:
    table: the table.
    result: its measured values.
    contenders: name of a cell -> its runs.
  """
  title = table.heading(result.scale).replace("; ", "\n")
  found = {cell.label: contenders[cell.name] for cell in table.cells if cell.name in contenders}
  if not any(one.runs for one in found.values()):
    return None, None
  if degrees := ended_degrees(table, result):
    return savings.draw(degrees, outcomes(table, result), table.tolerance, title), None
  if table.figure == "curves":
    return _curves(found, title), None
  if table.figure == "bars":
    return _bars(table, result, title), None
  if table.figure in client_costs.MEASURES and (costs := client_costs.by_seed(found)):
    first = next(iter(costs.values()))
    return client_costs.draw(first, table.figure, title), client_costs.as_csv(costs)
  return None, None


def _curves(found: Mapping[str, Contender], title: str) -> Figure:
  """Draws accuracy against training images, because a round has more images in some runs."""
  runs = {}
  for label, one in found.items():
    rows = seeds.summarize_rows([run.rows for run in one.runs]) if one.runs else []
    seen = np.cumsum([row["examples"] for row in rows]).tolist()
    runs[label] = [{**row, "round": n} for row, n in zip(rows, seen, strict=True)]
  figure = curves.compare_figure(runs, title)
  figure.axes[0].set_xlabel("training images seen")
  return figure


def _bars(table: Table, result: TableResult, title: str) -> Figure:
  measure = table.measures[0]
  values = {label: cell.over_seeds(measure) for label, cell in result.cells.items()}
  parts = [label.rpartition(", ")[::2] for label in values]
  groups, names = (list(dict.fromkeys(part)) for part in zip(*parts, strict=True))
  missing = estimate([])
  series = {n: [values.get(f"{g}, {n}" if g else n, missing) for g in groups] for n in names}
  axis = f"{MEASURES[measure].title} in %"
  if result.seeds > 1:
    axis += f"\nmean and standard deviation, {result.seeds} seeds"
  return bars.bars_figure(
    [group.replace(", ", "\n") for group in groups],
    {name: [one.mean for one in of] for name, of in series.items()},
    title,
    axis,
    deviations={name: [one.std for one in of] for name, of in series.items()},
  )
