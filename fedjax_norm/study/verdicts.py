"""Whether measured values support a statement: it is held, not held or undecided.

A statement consists of contrasts. A contrast is a weighted sum of values that has to exceed a
bound, such as top-1 of GN - top-1 of BN > 0, or log bytes of BSP - log bytes of Gaia > log 9.6.
Runs with the same seed have the same partition and the same initialization, so the contrast is
computed for each seed. Two errors are independent of each other:

  over the seeds    s / sqrt(n), with n - 1 degrees of freedom (s: standard deviation)
  of the test set   sqrt(var(e) / N)                for N test examples

e is the weighted sum for a single example, where a model's value is the share of its seeds that
answer it correctly. Without the answers, models count as if they erred independently of each other,
which is the sum of w^2 p (1 - p) with weights w and accuracies p. Half of the interval is the root
of the sum of squares of (t quantile times the first error) and (normal quantile times the second
one). Each end of it errs in at most 5% of cases.
"""

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple

from scipy import stats

from fedjax_norm.study.statistics import FEW_SEEDS, estimate

State = Literal["held", "not held", "undecided"]

_ERROR = 0.05  # probability that one end of an interval is wrong


class Measurement(NamedTuple):
  """A quantity over seeds.

  Attributes:
    values: seed -> value: an accuracy in percent, or the logarithm of another quantity.
    tested: number of test examples of an accuracy; 0 for other quantities.
    is_loss: whether the values are differences of two accuracies, which are not known.
  """

  values: Mapping[int, float]
  tested: int = 0
  is_loss: bool = False


class Contrast(NamedTuple):
  """The condition that a weighted sum of values exceeds a bound.

  Attributes:
    weights: key of a value -> its weight.
    bound: the bound.
    is_ratio: whether the values are logarithms, so that the contrast is one of a ratio.
  """

  weights: Mapping[Any, float]
  bound: float = 0.0
  is_ratio: bool = False


class Statement(NamedTuple):
  """Contrasts that all have to exceed their bounds or, with ``any``, at least one of them."""

  contrasts: tuple[Contrast, ...]
  any: bool = False

  def __and__(self, other: "Statement") -> "Statement":
    """Returns the statement that both hold.

    Raises:
      ValueError: one of them has ``any``.
    """
    if self.any or other.any:
      raise ValueError("only statements that need all of their contrasts can be joined.")
    return Statement(self.contrasts + other.contrasts)


class Margin(NamedTuple):
  """By how much a contrast exceeds its bound, and the interval; NaN if it cannot be computed."""

  mean: float
  low: float
  high: float
  is_ratio: bool = False


class Verdict(NamedTuple):
  """What the values say about a statement.

  Attributes:
    state: the verdict.
    margin: that of the contrast that decides: the least one if all have to hold, or the greatest.
    reason: why it is so, apart from the interval, as a part of a sentence; otherwise empty.
  """

  state: State
  margin: Margin | None = None
  reason: str = ""


Measurements = Mapping[Hashable, Measurement]

Covariance = Callable[[Any, Any], float]
"""(key of an accuracy, key of another one) -> covariance of the models' answers over the test
examples, in percent squared; of equal keys, their variance. NaN if the answers are not known."""


def judge(
  statement: Statement,
  measured: Measurements,
  least_seeds: int = FEW_SEEDS,
  doubt: str = "",
  covariance: Covariance | None = None,
) -> Verdict:
  """Returns the verdict about a statement.

  Args:
    statement: the statement.
    measured: key -> measurement, for all keys of the statement.
    least_seeds: fewer common seeds than these decide nothing. With 1, the error over the seeds of
      a single one counts as 0.
    doubt: a reason for which nothing is decided whatever the values are; empty without one.
    covariance: of the models' answers; None if they are not known.
  """
  keys = {key for contrast in statement.contrasts for key in contrast.weights}
  seeds = sorted(set.intersection(*(set(measured[key].values) for key in keys)))
  if not seeds:
    return Verdict("undecided", None, doubt or "a value is missing")
  k = len(statement.contrasts)
  # If all contrasts have to hold, one that fails by chance would suffice for "not held"; if any of
  # them is enough, one that holds by chance would suffice for "held" (Bonferroni's correction).
  below, above = (_ERROR / k, _ERROR) if statement.any else (_ERROR, _ERROR / k)
  margins = [
    _margin(contrast, measured, seeds, below, above, covariance) for contrast in statement.contrasts
  ]
  if statement.any:
    decisive = max(margins, key=lambda margin: (margin.low, margin.mean))
    holds, fails = decisive.low > 0, all(margin.high < 0 for margin in margins)
    decisive = decisive if holds else max(margins, key=lambda margin: margin.mean)
  else:
    decisive = min(margins, key=lambda margin: (margin.low, margin.mean))
    failing = [margin for margin in margins if margin.high < 0]
    holds, fails = decisive.low > 0, bool(failing)
    decisive = min(failing, key=lambda margin: margin.high, default=decisive)
  shares = {key for one in statement.contrasts if not one.is_ratio for key in one.weights}
  doubt = doubt or _doubt([measured[key] for key in shares], seeds, least_seeds)
  state: State = "held" if holds else "not held" if fails else "undecided"
  return Verdict("undecided", decisive, doubt) if doubt else Verdict(state, decisive)


def above_chance(measurement: Measurement, chance: float) -> bool:
  """Returns whether an accuracy exceeds that of guessing, in percent, by more than its error."""
  contrast, seeds = Contrast({"": 1.0}, chance), sorted(measurement.values)
  return _margin(contrast, {"": measurement}, seeds, _ERROR, _ERROR).low > 0 if seeds else False


def _doubt(measured: list[Measurement], seeds: list[int], least_seeds: int) -> str:
  """Returns why values decide nothing, whatever their interval; empty if they may."""
  if len(seeds) < least_seeds:
    return f"{least_seeds} seeds are needed"
  accuracies = [{one.values[seed] for seed in seeds} for one in measured]
  if len(seeds) > 1 and accuracies and all(len(values) == 1 for values in accuracies):
    return "the accuracies are the same with every seed"
  return ""


def _margin(
  contrast: Contrast,
  measured: Measurements,
  seeds: list[int],
  below: float,
  above: float,
  covariance: Covariance | None = None,
) -> Margin:
  """Returns the margin of a contrast; the ends err with the probabilities ``below`` and ``above``.

  The order of the sum is fixed, so that equal values give equal bits.
  """
  terms = [(weight, measured[key]) for key, weight in contrast.weights.items()]
  sums = [math.fsum(w * one.values[seed] for w, one in terms) for seed in seeds]
  mean, std, count = estimate(total - contrast.bound for total in sums)
  variance = _test_variance(contrast, measured, seeds, covariance)

  def half(error: float) -> float:
    over_seeds = _t(1 - error, count - 1) * std / math.sqrt(count) if count > 1 else 0.0
    return math.hypot(over_seeds, _normal(1 - error) * math.sqrt(variance))

  return Margin(mean, mean - half(below), mean + half(above), contrast.is_ratio)


def _test_variance(
  contrast: Contrast, measured: Measurements, seeds: list[int], covariance: Covariance | None
) -> float:
  """Returns the variance of a contrast by the choice of the test examples."""
  terms = [(key, w, measured[key]) for key, w in contrast.weights.items() if measured[key].tested]
  if covariance:
    pairs = itertools.product(terms, repeat=2)
    total = math.fsum(v * w * covariance(a, b) / one.tested for (a, v, one), (b, w, _) in pairs)
    if math.isfinite(total):
      return max(total, 0.0)
  total = 0.0
  for _, weight, one in terms:
    p = math.fsum(one.values[seed] for seed in seeds) / len(seeds) / 100
    # For a loss, the largest value of the sum over two accuracies.
    total += (100 * weight) ** 2 * (0.5 if one.is_loss else p * (1 - p)) / one.tested
  return total


@functools.cache
def _t(level: float, freedom: int) -> float:
  return float(stats.t.ppf(level, freedom))


@functools.cache
def _normal(level: float) -> float:
  return float(stats.norm.ppf(level))


# Statements about accuracies in percent. A key is whatever names a value, such as a label.


def rising(*keys: Any) -> Statement:
  """Each value is above the previous one."""
  return Statement(tuple(Contrast({b: 1.0, a: -1.0}) for a, b in itertools.pairwise(keys)))


def best(first: Any, *others: Any) -> Statement:
  """The first value is above each other one."""
  return Statement(tuple(Contrast({first: 1.0, other: -1.0}) for other in others))


def below(points: float, *keys: Any) -> Statement:
  """Each value is below ``points``."""
  return Statement(tuple(Contrast({key: -1.0}, -points) for key in keys))


def above(points: float, *keys: Any) -> Statement:
  """Each value is above ``points``."""
  return Statement(tuple(Contrast({key: 1.0}, points) for key in keys))


def keeps(points: float, reference: Any, *keys: Any) -> Statement:
  """Each value is less than ``points`` below the reference (it may be above)."""
  return Statement(tuple(Contrast({key: 1.0, reference: -1.0}, -points) for key in keys))


def alike(points: float, *keys: Any) -> Statement:
  """Any two values differ by less than ``points``: a test of equivalence in both directions."""
  pairs = itertools.permutations(keys, 2)
  return Statement(tuple(Contrast({a: 1.0, b: -1.0}, -points) for a, b in pairs))


def differ(points: float, *keys: Any) -> Statement:
  """Some two values differ by more than ``points``."""
  pairs = itertools.permutations(keys, 2)
  return Statement(tuple(Contrast({a: 1.0, b: -1.0}, points) for a, b in pairs), any=True)


def times(factor: float, larger: Any, smaller: Any) -> Statement:
  """The larger quantity is more than ``factor`` times the smaller one; values are logarithms."""
  return Statement((Contrast({larger: 1.0, smaller: -1.0}, math.log(factor), is_ratio=True),))
