"""The order of contenders: their scores, their costs, and the target to reach."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from fedjax_norm.evaluation.measures import MEASURES, Measure
from fedjax_norm.study.contender import Contender, SeedRun
from fedjax_norm.study.statistics import Estimate, estimate
from fedjax_norm.training.storage.csv_rows import Row

Score = Literal["best", "last", "mean"]
SAME_BYTES = 0.05
"""Contenders whose bytes differ by a smaller share send the same."""

_AVERAGED = 5  # evaluations in the mean of the last ones, for runs that have not stored it
_LOSS = Measure("test loss", ".4g", best_is_one=False)
_STATES = ("done", "pending", "diverged", "failed", "impossible")


class Criterion(NamedTuple):
  """By what contenders are ranked.

  Attributes:
    measure: column of ``metrics.csv``, such as ``top1``.
    score: how the values of a run become one: ``best`` is the test value at the evaluation with
      the best validation value, ``last`` the last one, ``mean`` the mean of the last ones.
    target: value of the measure that a run should reach; None to derive it from the baseline.
    baseline: value of the option ``algorithm`` whose best contender sets the target; None to let
      the best contender of all set it.
    title: name of the measure in texts; None for its usual name.
  """

  measure: str = "top1"
  score: Score = "best"
  target: float | None = None
  baseline: str | None = None
  title: str | None = None

  @property
  def form(self) -> Measure:
    """Title and number format of the measure."""
    form = MEASURES.get(self.measure, _LOSS)
    return form._replace(title=self.title or form.title)

  @property
  def sign(self) -> int:
    """1 if higher values are better, -1 if lower ones are."""
    return 1 if self.form.best_is_one else -1

  def margin(self, value: float) -> float:
    """Returns the difference that counts as small: one point, or 1% of a value without a bound."""
    return 0.01 if self.form.best_is_one else 0.01 * abs(value)


class Reached(NamedTuple):
  """What it cost to reach the target, as means over the seeds that reached it.

  Attributes:
    seeds: number of seeds that reached the target.
    rounds: rounds until the first evaluation that reached it; NaN if no seed did.
    bytes: bytes up and down until then.
    seconds: simulated seconds until then; NaN for runs without a simulated network.
  """

  seeds: int
  rounds: float
  bytes: float
  seconds: float


def by_setting(contenders: Iterable[Contender]) -> dict[str, list[Contender]]:
  """Returns setting -> its contenders; settings and contenders keep their order."""
  settings: dict[str, list[Contender]] = {}
  for contender in contenders:
    settings.setdefault(contender.setting, []).append(contender)
  return settings


def reading(run: SeedRun, column: str, score: Score) -> float:
  """Returns a column of a run's evaluations, read as ``score``; NaN if the run lacks it.

  The costs of a run, such as ``bytes_up``, are read as ``last``.
  """
  if score == "last":
    return _number(run.summary.get(column, run.rows[-1].get(column) if run.rows else None))
  if score == "mean":
    values = [_number(row.get(column)) for row in run.rows[-_AVERAGED:]]
    return _number(run.summary.get(f"mean_{column}", float(np.mean(values)) if values else None))
  row: Row = next((r for r in run.rows if r["round"] == run.summary.get("best_round")), {})
  return _number(run.summary.get(f"best_{column}", row.get(column)))


def scores(contender: Contender, criterion: Criterion) -> dict[int, float]:
  """Returns seed -> score of each finished run that has one."""
  values = {r.seed: reading(r, criterion.measure, criterion.score) for r in contender.runs}
  return {seed: value for seed, value in values.items() if math.isfinite(value)}


def score(contender: Contender, criterion: Criterion) -> Estimate:
  """Returns mean and deviation of a contender's score over its seeds."""
  return estimate(scores(contender, criterion).values())


def column(contender: Contender, name: str, score: Score = "last") -> Estimate:
  """Returns mean and deviation of a column over the seeds; NaN if the runs lack it."""
  return estimate(reading(run, name, score) for run in contender.runs)


def sent(contender: Contender) -> float:
  """Returns the bytes up and down of a run, as mean over the seeds; NaN without runs."""
  return column(contender, "bytes_up").mean + column(contender, "bytes_down").mean


def trained_on(contender: Contender) -> Estimate:
  """Returns the training examples of a run, each as often as it was used.

  A row counts those since the last evaluation.
  """
  return estimate(sum(_number(row.get("examples")) for row in run.rows) for run in contender.runs)


def sends_less(first: Contender, second: Contender) -> bool:
  """Returns whether ``first`` sends less than ``second``, by more than ``SAME_BYTES``."""
  return sent(first) < (1 - SAME_BYTES) * sent(second)


def has_score(contender: Contender, criterion: Criterion) -> bool:
  """Returns whether a contender takes part in the ranking."""
  return contender.state == "done" and bool(scores(contender, criterion))


def ranked(contenders: Iterable[Contender], criterion: Criterion) -> list[Contender]:
  """Returns the contenders of a setting, the best first, those without results last.

  Equal contenders are ordered by their bytes and their names, never by their position.
  """

  def key(contender: Contender) -> tuple[int, float, float, str]:
    if not has_score(contender, criterion):
      return 1 + _STATES.index(contender.state), 0, 0, contender.name
    value = score(contender, criterion).mean
    return 0, -criterion.sign * value, _last(sent(contender)), contender.name

  return sorted(contenders, key=key)


def pareto_front(contenders: Iterable[Contender], criterion: Criterion) -> list[Contender]:
  """Returns the contenders that no other one beats in score without more bytes, cheapest first.

  Bytes that differ by less than ``SAME_BYTES`` count as the same.
  """
  front: list[Contender] = []
  finished = [one for one in ranked(contenders, criterion) if has_score(one, criterion)]
  for contender in finished:  # from the best to the worst: each has to be cheaper than all before
    if not front or sends_less(contender, front[-1]):
      front.append(contender)
  return front[::-1]


def target(contenders: Sequence[Contender], criterion: Criterion) -> float:
  """Returns the value of the measure that the contenders of a setting should reach.

  Without a given target, it is one point (or 1%, for a measure without a bound) worse than the
  score of the baseline's best contender; NaN if the baseline has no score.
  """
  if criterion.target is not None:
    return criterion.target
  baselines = [
    one
    for one in contenders
    if criterion.baseline is None or one.options.get("algorithm") == criterion.baseline
  ]
  best = next(iter(ranked(baselines, criterion)), None)
  if best is None or not has_score(best, criterion):
    return math.nan
  value = score(best, criterion).mean
  return value - criterion.sign * criterion.margin(value)


def cost_to_target(contender: Contender, criterion: Criterion, value: float) -> Reached:
  """Returns what the runs spent until the first evaluation that reached the target ``value``."""
  found = []
  for run in contender.runs:
    for row in run.rows:
      if criterion.sign * (_number(row.get(criterion.measure)) - value) >= 0:
        found.append(row)
        break
  return Reached(
    len(found),
    estimate(row["round"] for row in found).mean,
    estimate(row["bytes_up"] + row["bytes_down"] for row in found).mean,
    estimate(_number(row.get("simulated_seconds")) for row in found).mean,
  )


def gain(contender: Contender, criterion: Criterion) -> float:
  """Returns by how much the measure still improved at the end, to tell whether it converged.

  It is the mean of the last third of the evaluations minus that of the third before, averaged over
  the seeds, and positive for an improvement. It is read from the validation values if the runs have
  them, and is NaN for fewer than six evaluations, which cannot tell. A contender still improves if
  its gain exceeds ``criterion.margin``.
  """
  gains = []
  for run in contender.runs:
    name = f"val_{criterion.measure}"
    name = name if run.rows and name in run.rows[-1] else criterion.measure
    values = [_number(row.get(name)) for row in run.rows]
    third = len(values) // 3
    if third >= 2:
      gains.append(float(np.mean(values[-third:]) - np.mean(values[-2 * third : -third])))
  return criterion.sign * estimate(gains).mean


def still_improves(contender: Contender, criterion: Criterion) -> bool:
  """Returns whether more rounds would probably improve the score by more than the margin."""
  return gain(contender, criterion) > criterion.margin(score(contender, criterion).mean)


def unstable(contender: Contender, criterion: Criterion) -> bool:
  """Returns whether the last value is far worse than the one in the best round by validation.

  Far is more than five times ``criterion.margin``, such as 5 points, as mean over the seeds.
  """
  return fall(contender, criterion) > 5 * criterion.margin(
    column(contender, criterion.measure, "best").mean
  )


def fall(contender: Contender, criterion: Criterion) -> float:
  """Returns by how much the last value is worse than that in the best round by validation."""
  best, last = (column(contender, criterion.measure, kind).mean for kind in ("best", "last"))
  return criterion.sign * (best - last)


def guesses(contender: Contender) -> bool:
  """Returns whether the model of a seed is no better than one that ignores its input."""
  return any(run.summary.get("no_better_than_guessing", False) for run in contender.runs)


def _number(value: object) -> float:
  return float(value) if isinstance(value, int | float) else math.nan


def _last(value: float) -> float:
  return value if math.isfinite(value) else math.inf
