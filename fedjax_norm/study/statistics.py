"""Means over seeds, and differences between runs with the same seeds."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

_LEVEL = 0.95
FEW_SEEDS = 3
"""Fewer seeds than these give intervals that are too wide to be of use."""

MOST_SEEDS = 10
"""More seeds than these are not recommended: a difference that needs them hardly matters."""

_NO_DEVIATION = 1e-9  # equal differences of floats deviate less


class Estimate(NamedTuple):
  """A value over seeds.

  Attributes:
    mean: mean over the seeds; NaN without seeds.
    std: standard deviation over the seeds, with n - 1 in the denominator; NaN below two seeds.
    seeds: number of seeds.
  """

  mean: float
  std: float
  seeds: int


class Difference(NamedTuple):
  """The mean difference of two contenders over the seeds that both have.

  Attributes:
    mean: mean over the seeds; NaN without common seeds.
    low: lower end of the 95% confidence interval; NaN below two seeds.
    high: upper end of the interval.
    std: standard deviation of the differences, with n - 1 in the denominator.
    seeds: number of common seeds.
  """

  mean: float
  low: float
  high: float
  std: float
  seeds: int

  @property
  def decided(self) -> bool:
    """Whether the interval excludes 0; False below two seeds."""
    return self.low > 0 or self.high < 0

  @property
  def constant(self) -> bool:
    """Whether the difference is the same with every seed, but not 0, so that the interval is empty.

    A small test set may cause that.
    """
    return abs(self.mean) > _NO_DEVIATION > self.std

  def within(self, margin: float) -> bool:
    """Returns whether the interval lies within ``margin`` on both sides of 0: equivalence."""
    return -margin <= self.low and self.high <= margin

  def minus(self, value: float) -> "Difference":
    """Returns by how much the difference exceeds a value."""
    mean, low, high = (one - value for one in (self.mean, self.low, self.high))
    return self._replace(mean=mean, low=low, high=high)


def estimate(values: Iterable[float]) -> Estimate:
  """Returns mean and standard deviation of the finite values, one for each seed."""
  finite = [float(value) for value in values if math.isfinite(value)]
  mean = float(np.mean(finite)) if finite else math.nan
  std = float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan
  return Estimate(mean, std, len(finite))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
  """Returns the difference ``first - second`` over their common seeds.

  Runs with the same seed share their data and their initialization, so that their difference
  varies less than either value. The interval is that of Student's t distribution.

  Args:
    first: seed -> value.
    second: seed -> value.
  """
  seeds = sorted(first.keys() & second.keys())
  mean, std, count = estimate(first[seed] - second[seed] for seed in seeds)
  half = _quantile(count) * std / math.sqrt(count) if count > 1 else math.nan
  return Difference(mean, mean - half, mean + half, std, count)


def seeds_needed(difference: Difference) -> int | None:
  """Returns with how many seeds the interval would exclude 0.

  It assumes that the mean and the deviation of the difference stay as they are.

  Returns:
    The smallest such number above the present one; None if it exceeds ``MOST_SEEDS`` or cannot be
    computed from fewer than two seeds.
  """
  if not math.isfinite(difference.std):
    return None
  for count in range(difference.seeds + 1, MOST_SEEDS + 1):
    if _quantile(count) * difference.std / math.sqrt(count) < abs(difference.mean):
      return count
  return None


def _quantile(count: int) -> float:
  return float(stats.t.ppf((1 + _LEVEL) / 2, count - 1))
