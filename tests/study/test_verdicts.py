"""Verdicts about planted effects: how often they are right, and what they say of odd values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedjax_norm.study import verdicts
from fedjax_norm.study.verdicts import Contrast, Measurement, Statement, judge

TESTED = 10_000


def accuracies(rng, truths, deviation, seeds=3, tested=TESTED):
  """Measured accuracies in percent of runs with true mean accuracies, by number of the run.

  Models differ between seeds by ``deviation`` points, and each is tested on random images.
  """
  found = {}
  for key, truth in enumerate(truths):
    true = np.clip(truth + deviation * rng.standard_normal(seeds), 0, 100) / 100
    found[key] = Measurement(dict(enumerate(100 * rng.binomial(tested, true) / tested)), tested)
  return found


def share(state, statement, truths, deviation, trials=1000, **more):
  rng = np.random.default_rng(7)
  judged = (judge(statement, accuracies(rng, truths, deviation, **more)) for _ in range(trials))
  return sum(verdict.state == state for verdict in judged) / trials


@pytest.mark.parametrize(
  ("statement", "truths"),
  [
    (verdicts.rising(0, 1), (50, 50)),
    (verdicts.rising(0, 1, 2), (50, 50, 60)),
    (verdicts.best(0, 1, 2), (60, 60, 50)),
    (verdicts.below(15, 0), (15,)),
    (verdicts.above(70, 0), (70,)),
    (verdicts.keeps(2, 0, 1), (60, 58)),
    (verdicts.alike(2, 0, 1), (60, 58)),
    (verdicts.alike(2, 0, 1), (58, 60)),
    (verdicts.differ(1, 0, 1), (61, 60)),
    (verdicts.differ(0, 0, 1, 2, 3), (60, 60, 60, 60)),
  ],
)
@pytest.mark.parametrize("deviation", [0.2, 1.5])
def test_no_effect_is_held_in_at_most_5_percent(statement, truths, deviation):
  """At the bound, where the statement is just not true; 1.6 points are two errors of the count."""
  assert share("held", statement, truths, deviation) <= 0.05 + 0.016


def test_statements_that_are_just_true_are_rarely_denied():
  """All five contrasts are just true, so that each of them could fail by chance."""
  assert share("not held", verdicts.rising(*range(6)), [60] * 6, 1.0) <= 0.05 + 0.016


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("deviation", [0.05, 1.5])
def test_effects_of_three_standard_errors_are_found_in_most_trials(seeds, deviation):
  """The errors of the seeds and of the test set; the smaller deviation leaves the second one."""
  variance = 2 * deviation**2 / seeds + 2 * 50 * 50 / TESTED
  effect = 3 * math.sqrt(variance)
  truths = (50 - effect / 2, 50 + effect / 2)
  assert share("held", verdicts.rising(0, 1), truths, deviation, seeds=seeds) > 0.5
  assert share("not held", verdicts.rising(1, 0), truths, deviation, seeds=seeds) > 0.5


def test_clear_statements_are_held_and_denied():
  assert share("held", verdicts.alike(4, 0, 1), (50, 50.1), 0.3, 100) > 0.9
  assert share("not held", verdicts.alike(4, 0, 1), (50, 60), 0.3, 100) > 0.9
  assert share("held", verdicts.differ(2, 0, 1, 2), (50, 51, 60), 0.3, 100) > 0.9
  assert share("not held", verdicts.differ(8, 0, 1, 2), (50, 50, 50), 0.3, 100) > 0.9
  assert share("held", verdicts.keeps(2, 0, 1), (50, 70), 0.3, 100) == 1  # it may be above


@pytest.mark.parametrize(
  "statement", [verdicts.rising(0, 1), verdicts.alike(5, 0, 1), verdicts.below(15, 0, 1)]
)
def test_constant_runs_are_never_held(statement):
  constant = dict.fromkeys(range(3), 10.0)
  verdict = judge(statement, {key: Measurement(constant, TESTED) for key in (0, 1)})
  assert (verdict.state, verdict.reason) == (
    "undecided",
    "the accuracies are the same with every seed",
  )


def test_the_interval_is_that_of_the_formulas():
  """By hand: Student's t of the paired differences, and the binomial error of both test results."""
  first, second = [60.0, 62.0, 61.5], [50.0, 51.0, 53.0]
  measured = {
    "a": Measurement(dict(enumerate(first)), 400),
    "b": Measurement(dict(enumerate(second)), 400),
  }
  verdict = judge(verdicts.rising("b", "a"), measured)
  differences = np.subtract(first, second)
  low, high = stats.t.interval(0.9, 2, differences.mean(), stats.sem(differences))
  p = np.mean(first) / 100, np.mean(second) / 100
  test_set = 100 * math.sqrt(sum(x * (1 - x) / 400 for x in p)) * stats.norm.ppf(0.95)
  half = math.hypot((high - low) / 2, test_set)
  assert verdict.state == "held"
  np.testing.assert_allclose(
    verdict.margin[:3], [differences.mean(), differences.mean() - half, differences.mean() + half]
  )


def test_only_common_seeds_count_and_fewer_than_three_decide_nothing():
  a = Measurement({0: 60.0, 1: 61.0, 2: 60.5, 3: 0.0}, TESTED)
  b = Measurement({0: 50.0, 1: 51.5, 2: 50.5}, TESTED)
  assert judge(verdicts.rising("b", "a"), {"a": a, "b": b}).state == "held"
  few = b._replace(values={0: 50.0, 1: 51.5})
  verdict = judge(verdicts.rising("b", "a"), {"a": a, "b": few})
  assert (verdict.state, verdict.reason) == ("undecided", "3 seeds are needed")
  assert judge(verdicts.rising("b", "a"), {"a": a, "b": few}, least_seeds=2).margin.mean == 9.75
  none = judge(verdicts.rising("b", "a"), {"a": a, "b": b._replace(values={})})
  assert (none.state, none.margin) == ("undecided", None)
  printed = {key: Measurement({0: value}, TESTED) for key, value in (("a", 60.0), ("b", 50.0))}
  assert judge(verdicts.rising("b", "a"), printed, least_seeds=1).state == "held"
  assert judge(verdicts.rising("a", "b"), printed, least_seeds=1).state == "not held"


def test_of_several_undecided_contrasts_the_greatest_is_shown():
  """Two equal cells have no interval, and say the least."""
  noisy = {0: 50.0, 1: 58.0, 2: 53.0}
  measured = {key: Measurement(noisy, TESTED) for key in ("a", "b")}
  measured["c"] = Measurement({0: 49.0, 1: 50.0, 2: 51.0}, TESTED)
  verdict = judge(verdicts.differ(1, "a", "b", "c"), measured)
  assert verdict.state == "undecided"
  assert verdict.margin.mean == pytest.approx(53 + 2 / 3 - 50 - 1)


def test_a_printed_loss_has_the_error_of_two_accuracies():
  """Of two unknown accuracies: at most sqrt(2 / 4 / 10,000), which are 0.71 points."""

  def of(points):
    printed = Measurement({0: points}, TESTED, is_loss=True)
    return judge(verdicts.above(2.0, 0), {0: printed}, least_seeds=1)

  assert [of(points).state for points in (3.7, 2.5, 0.0)] == ["held", "undecided", "not held"]
  assert of(3.7).margin.low == pytest.approx(1.7 - 1.645 * 0.707, abs=1e-3)


def test_a_doubt_decides_nothing_but_keeps_the_margin():
  clear = {
    key: Measurement({0: v, 1: v + 0.5, 2: v + 0.2}, TESTED) for key, v in (("a", 60), ("b", 50))
  }
  verdict = judge(verdicts.rising("b", "a"), clear, doubt="the runs are short")
  assert (verdict.state, verdict.reason) == ("undecided", "the runs are short")
  assert verdict.margin.mean == pytest.approx(10)


def test_accuracies_within_the_error_of_guessing():
  assert not verdicts.above_chance(Measurement({0: 10.0, 1: 10.0, 2: 10.0}, TESTED), 10.0)
  assert not verdicts.above_chance(Measurement({0: 11.0, 1: 16.0, 2: 7.0}, TESTED), 10.0)
  assert verdicts.above_chance(Measurement({0: 20.0, 1: 21.0, 2: 19.0}, TESTED), 10.0)
  assert verdicts.above_chance(Measurement({0: 20.0, 1: 20.0, 2: 20.0}, TESTED), 10.0)
  assert not verdicts.above_chance(Measurement({}, TESTED), 10.0)
  assert not verdicts.above_chance(Measurement({0: 13.0, 1: 12.0, 2: 14.0}, 40), 10.0)


def test_ratios_are_differences_of_logarithms():
  def logs(*values):
    return Measurement(dict(enumerate(map(math.log, values))))

  measured = {"bsp": logs(100, 100, 100), "gaia": logs(5, 5.5, 6), "none": logs(90, 100, 110)}
  verdict = judge(verdicts.times(9.6, "bsp", "gaia"), measured)
  assert verdict.state == "held"
  assert math.exp(verdict.margin.mean) * 9.6 == pytest.approx(100 / (5 * 5.5 * 6) ** (1 / 3))
  assert judge(verdicts.times(30, "bsp", "gaia"), measured).state == "not held"
  assert judge(verdicts.times(1, "bsp", "none"), measured).state == "undecided"
  # Bytes may be the same with every seed.
  assert judge(verdicts.times(20, "bsp", "x"), {**measured, "x": logs(4, 4, 4)}).state == "held"


@given(
  st.lists(st.floats(20, 80), min_size=6, max_size=6, unique=True), st.sampled_from([100, 10_000])
)
def test_verdicts_of_opposites_exclude_each_other(values, tested):
  measured = {
    key: Measurement(dict(enumerate(values[3 * key : 3 * key + 3])), tested) for key in (0, 1)
  }
  there, back = judge(verdicts.rising(0, 1), measured), judge(verdicts.rising(1, 0), measured)
  assert {there.state, back.state} in ({"held", "not held"}, {"undecided"})
  both = judge(verdicts.rising(0, 1) & verdicts.rising(1, 0), measured)
  assert both.state != "held"
  wide = judge(Statement((Contrast({0: 1.0}, -1e3),)), measured)
  assert wide.state == "held"


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]))
def test_the_error_of_known_answers_is_that_of_their_weighted_sum(seed, runs):
  """An oracle with each example's contrast, for models that often answer alike."""
  rng = np.random.default_rng(seed)
  hard = rng.random(400)
  answers = [100.0 * (hard < p + 0.1 * rng.standard_normal((runs, 400))) for p in (0.6, 0.5)]
  measured = {
    key: Measurement(dict(enumerate(one.mean(1))), 400) for key, one in enumerate(answers)
  }
  covariances = np.cov([one.mean(0) for one in answers])
  statement = verdicts.rising(1, 0)
  found = judge(statement, measured, 1, covariance=lambda a, b: covariances[a, b]).margin
  each = answers[0] - answers[1]
  error = stats.norm.ppf(0.95) * np.std(each.mean(0), ddof=1) / 20
  if runs > 1:
    over_seeds = np.std(each.mean(1), ddof=1) / math.sqrt(runs)
    error = math.hypot(error, stats.t.ppf(0.95, runs - 1) * over_seeds)
  np.testing.assert_allclose(found.mean - found.low, error)
  without = judge(statement, measured, 1).margin
  assert found.high < without.high  # they answer alike
  assert judge(statement, measured, 1, covariance=lambda a, b: math.nan).margin == without
