"""The measured values of a table, which ``results/`` keeps."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.evaluation.classification import unpacked
from fedjax_norm.papers import client_costs
from fedjax_norm.papers.tables import Table
from fedjax_norm.study import savings
from fedjax_norm.study.contender import Contender, SeedRun, Tuning
from fedjax_norm.study.statistics import Estimate, estimate

_PAIRS = 6_000  # of images in a test of verification: ten folds with 300 of each kind

MADE = ("date", "commit", "machine", "versions", "command")
"""What a record says about how its runs were made."""


class CellResult(NamedTuple):
  """The runs of a cell.

  Attributes:
    state: whether there are results (see ``study.contender.State``).
    reason: why there are none, as one sentence; None if there are.
    seconds: time of all seeds, without compilation before the first round.
    runs: seed -> name of a figure -> value: the table's measures in percent, ``bytes`` that all
      clients sent and received, and, where the table has them, the clients' costs at the common
      accuracy (``client_flops`` and ``sent``).
    rate: the learning rate that was chosen for the cell, as text with a mark if it is at an edge of
      what was tried; None if it was given.
    settings: checksum of the settings (``Cell.settings``).
  """

  state: str
  reason: str | None
  seconds: float
  runs: dict[int, dict[str, float]]
  rate: str | None = None
  settings: str = ""

  @property
  def ended(self) -> bool:
    """Whether no run of the cell is missing."""
    return self.state in ("done", "diverged", "impossible")

  def over_seeds(self, figure: str) -> Estimate:
    """Returns a figure's mean and deviation."""
    return estimate(run.get(figure, math.nan) for run in self.runs.values())


class TableResult(NamedTuple):
  """What was measured of a table.

  Attributes:
    table: name of the table.
    scale: scale of the runs.
    made: how it was measured, with the names in :data:`MADE`.
    tested: number of test examples of an accuracy, or of pairs of images; 0 for other measures.
    chance: accuracy or mean IoU of the best constant answer in percent.
    cells: label -> result.
    covariance: covariances of the cells' answers over the test examples, in percent squared, in the
      order of ``cells``; an answer is the share of a cell's seeds that are correct. Empty if a cell
      has no answers.
  """

  table: str
  scale: str
  made: dict[str, str]
  tested: int
  chance: float
  cells: dict[str, CellResult]
  covariance: list[list[float]]

  @property
  def seeds(self) -> int:
    """The smallest number of seeds of a cell that has any."""
    return min((len(cell.runs) for cell in self.cells.values() if cell.runs), default=0)

  @property
  def measured(self) -> int:
    """Number of cells that have any run."""
    return sum(bool(cell.runs) for cell in self.cells.values())


def collect(
  table: Table, scale: str, contenders: Mapping[str, Contender], made: dict[str, str]
) -> TableResult:
  """Returns the measured values of a table.

  Args:
    table: the table.
    scale: scale of the runs.
    contenders: name of a cell -> its runs; cells that it lacks have not been run.
    made: how the values were measured (see :class:`TableResult`).
  """
  found = {
    cell.label: contenders.get(cell.name, Contender(cell.name, "", {}, (), "pending"))
    for cell in table.cells
  }
  cells = {
    label: CellResult(
      one.state,
      one.reason,
      math.fsum(run.summary["seconds"] for run in one.runs),
      {run.seed: _figures(run, table) for run in one.runs},
      _rate(one.tuning),
      cell.settings(scale),
    )
    for cell, (label, one) in zip(table.cells, found.items(), strict=True)
  }
  if table.figure in client_costs.MEASURES:
    for seed, costs in client_costs.by_seed(found).items():
      for label, cost in client_costs.at_common_accuracy(costs).items():
        cells[label].runs[seed] |= {"client_flops": cost.client_flops, "sent": float(cost.sent)}
  runs = [run for one in found.values() for run in one.runs]
  counts = (
    [one["examples"] for one in (runs[0].evaluation or {}).get("classes", [])] if runs else []
  )
  chance, tested = 50.0, _PAIRS  # pairs of images are alike or not
  if counts:
    chance, tested = 100 * max(counts) / sum(counts), sum(counts)
  elif table.measures[0] != "top1":  # the error of the test set is not known
    chance, tested = max((100 * run.summary["constant_mean_iou"] for run in runs), default=0.0), 0
  return TableResult(
    table.name, scale, made, tested, chance, cells, _covariance(found, sum(counts))
  )


def _covariance(found: Mapping[str, Contender], tested: int) -> list[list[float]]:
  """Returns the covariances of the answers of all cells; those of a cell without answers are 0."""
  answers = []
  for one in found.values():
    texts = [(run.evaluation or {}).get("correct") for run in one.runs]
    if not all(texts):
      return []
    answers.append(np.zeros(tested))
    if texts:
      answers[-1] = 100 * np.mean([unpacked(text, tested) for text in texts if text], 0)
  return np.atleast_2d(np.cov(answers)).round(4).tolist() if tested else []


def _rate(tuning: Tuning | None) -> str | None:
  if tuning is None:
    return None
  return f"{tuning.lr:g}" + (f" ({tuning.edge})" if tuning.edge else "")


def _figures(run: SeedRun, table: Table) -> dict[str, float]:
  summary = run.summary
  figures = {"bytes": float(summary["bytes_up"] + summary["bytes_down"])}
  shares = [name for name in table.measures if name in summary]
  return figures | {name: round(100 * summary[name], 4) for name in shares}


def as_json(result: TableResult) -> dict[str, Any]:
  """Returns a table's result as JSON holds it."""
  cells = {label: cell._asdict() for label, cell in result.cells.items()}
  return {**result._asdict(), "cells": cells}


def from_json(content: dict[str, Any]) -> TableResult:
  """Returns the result that :func:`as_json` turned into ``content``.

  Raises:
    ValueError: the content is no result of a table.
  """
  try:
    cells = {}
    for label, cell in content["cells"].items():
      figures = {
        int(seed): {name: float(value) for name, value in run.items()}
        for seed, run in cell["runs"].items()
      }
      cells[label] = CellResult(
        cell["state"],
        cell["reason"],
        float(cell["seconds"]),
        figures,
        cell.get("rate"),
        cell["settings"],
      )
    made = {name: str(content["made"][name]) for name in MADE}
    tested, chance = int(content["tested"]), float(content["chance"])
    covariance = [list(map(float, row)) for row in content["covariance"]]
    return TableResult(content["table"], content["scale"], made, tested, chance, cells, covariance)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise ValueError("no recorded table") from error


def fitted(table: Table, result: TableResult) -> TableResult:
  """Returns a result with the cells of a table; those that it has not, as they are, are missing."""
  labels = [cell.label for cell in table.cells]
  settings = [cell.settings(result.scale) for cell in table.cells]
  if [*zip(labels, settings, strict=True)] == [(k, v.settings) for k, v in result.cells.items()]:
    return result
  missing = CellResult("pending", None, 0.0, {})
  cells = {
    label: one if (one := result.cells.get(label)) and one.settings == checksum
    else missing._replace(settings=checksum)
    for label, checksum in zip(labels, settings, strict=True)
  }  # fmt: skip
  return result._replace(cells=cells, covariance=[])


def merged(result: TableResult, old: TableResult) -> TableResult:
  """Returns a result with the cells of an older one that have runs, or an end, which it lacks.

  Cells with other settings are not taken over.
  """

  def chosen(label: str, one: CellResult) -> CellResult:
    before = old.cells.get(label, one)
    beyond = before.runs.keys() - one.runs or (before.ended and not one.ended)
    return before if beyond and before.settings == one.settings else one

  cells = {label: chosen(label, one) for label, one in result.cells.items()}
  for one in (result, old):
    if cells == one.cells:
      return one
  # The covariance between the answers of cells that were recorded apart is not known.
  made = {k: "; ".join(dict.fromkeys([old.made[k], result.made[k]])) for k in MADE}
  return result._replace(made=made, cells=cells, covariance=[])


def ended_degrees(table: Table, result: TableResult) -> tuple[savings.Degree, ...]:
  """Returns the degrees of skew of which no run is missing."""
  return tuple(
    one
    for one in table.degrees
    if all(result.cells[label].ended for label in (one.bsp, *one.thetas.values(), one.scout))
  )


def outcomes(table: Table, result: TableResult) -> dict[str, savings.Outcome]:
  """Returns label -> mean accuracy and mean bytes, for the savings over BSP."""
  return {
    cell.label: savings.Outcome(
      one.over_seeds(table.measures[0]).mean, one.over_seeds("bytes").mean
    )
    for cell in table.cells
    for one in [result.cells[cell.label]]
  }
