"""The search for a contender's learning rate, by successive halving, as a pure decision.

Each rate of a grid trains for a quarter of the local steps of a final run, or for as many as make
a meaningful run. If the best rate is at an end of an automatic grid, the grid grows by about a
factor of 3 beyond that end, at most twice; if training diverges at all rates, it grows downwards.
Then the best two rates train for half of the steps. The better one is chosen. Values are scores on
validation examples, with one seed.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fedjax_norm.study.contender import Trial, Tuning
from fedjax_norm.study.ranking import Criterion, Score
from fedjax_norm.training.outcome import best_index

EXTENSIONS = 2
"""Rates by which an automatic grid may grow."""

SHARES = (0.25, 0.5)
"""Shares of a final run's local steps for which the rates, and then the best two, are trained."""

_FINALISTS = 2


class Search(NamedTuple):
  """What is searched.

  Attributes:
    rates: the grid, in rising order.
    steps: local steps of the two rungs.
    extends: whether the grid may grow.
    score: how validation values become one number: ``best``, ``last`` or ``mean``.
    measure: the measure.
  """

  rates: tuple[float, ...]
  steps: tuple[int, int]
  extends: bool
  score: Score
  measure: str


def rungs(effort: int, least: int) -> tuple[int, int]:
  """Returns the local steps of the trials, and of the longer trials of the best two rates.

  Args:
    effort: local steps of a final run.
    least: fewest local steps of a meaningful trial; with few of a final run, both rungs are equal,
      and there are no longer trials.
  """
  short, long = (min(effort, max(round(share * effort), least)) for share in SHARES)
  return short, long


def total_steps(rates: int, extends: bool, seeds: int, effort: int, rungs: tuple[int, int]) -> int:
  """Returns the local steps of a contender: its search with the reserve, and its final runs.

  Args:
    rates: number of rates of the grid.
    extends: whether the grid may grow.
    seeds: number of final runs.
    effort: local steps of a final run.
    rungs: result of :func:`rungs`.
  """
  if rates <= 1:
    return seeds * effort
  short, long = rungs
  trials = rates + (EXTENSIONS if extends else 0)
  longer = min(_FINALISTS, rates) if long != short else 0
  return trials * short + longer * long + seeds * effort


def score_of(
  rows: Sequence[dict[str, Any]], measure: str, score: Score, average_last: int
) -> float:
  """Returns the score of a run on the validation examples, from its rows of ``metrics.csv``.

  ``best`` is the value in the round whose model a run saves as its best (``outcome.best_index``).
  """
  values = [float(row[f"val_{measure}"]) for row in rows]
  if score == "last":
    return values[-1]
  if score == "mean":
    last = values[-average_last:]
    return sum(last) / len(last)
  index = best_index(rows)
  return math.nan if index is None else values[index]


def next_trials(trials: Sequence[Trial], search: Search) -> list[tuple[float, int]] | Tuning:
  """Returns the (rate, local steps) to train next, or the choice if there is nothing to train.

  If training diverged at every rate, the choice is the lowest one; if it did at every rate only in
  the longer trials, the lowest one that had a value.
  """
  first, second = search.steps
  short = {trial.lr: trial for trial in trials if trial.steps == first}
  long = {trial.lr: trial for trial in trials if trial.steps == second and trial.steps != first}
  if missing := [(rate, first) for rate in search.rates if rate not in short]:
    return missing
  ranked = _ranked(short, search)
  grid = sorted(short)
  lowest = min(ranked, default=grid[0])
  if search.extends and len(grid) < len(search.rates) + EXTENSIONS:
    if not ranked or (ranked[0] == grid[0] and ranked[0] != grid[-1]):
      return [(_below(grid[0]), first)]
    if ranked[0] == grid[-1]:
      return [(_above(grid[-1]), first)]
  if second != first and len(ranked) > 1:
    # A rate that diverges in the longer trial makes room for the next one.
    diverged = {rate for rate, trial in long.items() if trial.value is None}
    finalists = [rate for rate in ranked if rate not in diverged][:_FINALISTS]
    if missing := [(rate, second) for rate in finalists if rate not in long]:
      return missing
    best = _ranked(long, search)
    ranked = best + [rate for rate in ranked if rate not in long]
  chosen = ranked[0] if ranked else lowest
  edge = None
  if len(grid) > 1:
    edge = "lowest" if chosen == grid[0] else "highest" if chosen == grid[-1] else None
  runner_up = ranked[1] if len(ranked) > 1 else None
  return Tuning(chosen, runner_up, edge, search.score, search.measure, tuple(trials))  # type: ignore[arg-type]


def _ranked(trials: dict[float, Trial], search: Search) -> list[float]:
  """Returns the rates with a value, the best first; of equal ones, the nearest to the middle."""
  sign = Criterion(search.measure).sign
  middle = math.log(search.rates[0] * search.rates[-1]) / 2

  def order(trial: Trial) -> tuple[float, float, float]:
    assert trial.value is not None
    return -sign * trial.value, round(abs(math.log(trial.lr) - middle), 6), trial.lr

  return [t.lr for t in sorted((t for t in trials.values() if t.value is not None), key=order)]


def _above(rate: float) -> float:
  """Returns the next rate of the series 0.001, 0.003, 0.01, ..."""
  return float(f"{rate * (10 / 3 if f'{rate:e}'[0] == '3' else 3):.1g}")


def _below(rate: float) -> float:
  return float(f"{rate / (3 if f'{rate:e}'[0] == '3' else 10 / 3):.1g}")
