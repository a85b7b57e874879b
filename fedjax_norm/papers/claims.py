"""The verdicts about a table's claims, on our values and on those that the paper prints."""

import math
from typing import Any

import numpy as np

from fedjax_norm.papers.results import TableResult, outcomes
from fedjax_norm.papers.tables import Claim, Table, Value
from fedjax_norm.study import savings
from fedjax_norm.study.statistics import FEW_SEEDS
from fedjax_norm.study.verdicts import Measurement, Verdict, above_chance, judge


def verdict(table: Table, claim: Claim, result: TableResult) -> Verdict:
  """Returns what the measured values say about a claim.

  Nothing is decided at scale ``smoke``, if a run is missing or diverged, or if the baseline is
  within the error of guessing.
  """
  if claim.diverges and result.cells[claim.diverges].state == "diverged":
    others = {key for one in claim.statement.contrasts for key in one.weights} - {claim.diverges}
    if doubt := _doubt(table, result, sorted(others)):
      return Verdict("undecided", None, doubt)
    if min(len(result.cells[label].runs) for label in others) < FEW_SEEDS:
      return Verdict("undecided", None, f"{FEW_SEEDS} seeds are needed")
    if result.cells[claim.diverges].runs:
      return Verdict("undecided", None, f"{claim.diverges} diverged with some of the seeds")
    return Verdict("held", None, f"{claim.diverges} diverged")
  statement = table.in_accuracies(claim.statement)
  labels, keys = [], []
  for contrast in statement.contrasts:
    for key in contrast.weights:
      label = key.label if isinstance(key, Value) else key
      if label.endswith(", Oracle"):
        degree = next(one for one in table.degrees if label == f"{one.label}, Oracle")
        for run in (degree.bsp, *degree.thetas.values()):  # one that diverged is no candidate
          if not result.cells[run].ended:
            return Verdict("undecided", None, _why_missing(run, result.cells[run].state))
        theta = savings.measure(degree, outcomes(table, result), table.tolerance).oracle_theta
        if theta is None:
          return Verdict("undecided", None, "no theta keeps BSP's accuracy")
        label = degree.thetas[theta]
      keys.append((key, label))
      labels.append(label)
  measured = {key: _measurement(table, result, key, label) for key, label in keys}
  doubt = _doubt(table, result, list(dict.fromkeys(labels)))
  position = {label: i for i, label in enumerate(result.cells)}
  label_of = dict(keys)

  def covariance(a: Any, b: Any) -> float:
    return result.covariance[position[label_of[a]]][position[label_of[b]]]

  return judge(
    statement, measured, doubt=doubt, covariance=covariance if result.covariance else None
  )


def paper_verdict(table: Table, claim: Claim) -> Verdict | None:
  """Returns what the paper's own figures say about a claim; None if it does not print them all.

  They are of single runs, so that only the error of the test set is known.
  """
  statement = table.in_accuracies(claim.statement, printed=True)
  cells = {cell.label: cell for cell in table.cells}
  measured: dict[Any, Measurement] = {}
  for contrast in statement.contrasts:
    for key in contrast.weights:
      if isinstance(key, Value):
        value = table.paper_loss(cells[key.label]) if key.measure == "loss" else math.nan
      else:
        value = (cells[key].paper or (math.nan,))[0]
      if not math.isfinite(value):
        return None
      measured[key] = Measurement({0: value}, table.paper_tested, is_loss=isinstance(key, Value))
  return judge(statement, measured, least_seeds=1)


def _measurement(table: Table, result: TableResult, key: Any, label: str) -> Measurement:
  runs = result.cells[label].runs.items()
  if not isinstance(key, Value):
    name = table.measures[0]
    return Measurement({seed: run[name] for seed, run in runs if name in run}, result.tested)
  found = {seed: run.get(key.measure, 0.0) for seed, run in runs}
  return Measurement({seed: float(np.log(value)) for seed, value in found.items() if value > 0})


def _why_missing(label: str, state: str) -> str:
  return f"{label} " + {"pending": "has not been run", "impossible": "is impossible"}.get(
    state, state
  )


def _doubt(table: Table, result: TableResult, labels: list[str]) -> str:
  """Returns why a claim about some cells is not decided, whatever their values; empty if it may."""
  for label in [*labels, *([table.baseline] if table.baseline else [])]:
    if (state := result.cells[label].state) != "done":
      return _why_missing(label, state)
  if result.scale == "smoke":
    return "runs at scale smoke are too short"
  best = max(labels, key=lambda label: result.cells[label].over_seeds(table.measures[0]).mean)
  baseline = table.baseline or best
  if not above_chance(_measurement(table, result, baseline, baseline), result.chance):
    return f"{baseline} is within the error of guessing ({result.chance:.1f}%)"
  return ""
