"""Contenders are ranked by their scores, and their differences are paired over seeds."""

import math

import numpy as np
import pytest
from helpers.contenders import contender
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedjax_norm.study import ranking, statistics
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.statistics import Difference, paired_difference, seeds_needed

TOP1 = Criterion()


@given(
  st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8).filter(
    lambda pairs: np.std([a - b for a, b in pairs]) > 1e-6
  )
)
def test_the_interval_is_that_of_the_paired_t_test(pairs):
  first, second = map(list, zip(*pairs, strict=True))
  found = paired_difference(dict(enumerate(first)), dict(enumerate(second)))
  expected = stats.ttest_rel(first, second).confidence_interval(0.95)
  np.testing.assert_allclose(found[:3], [np.mean(np.subtract(first, second)), *expected], atol=1e-9)
  assert found.decided == (expected.low > 0 or expected.high < 0)


def test_only_common_seeds_are_compared():
  found = paired_difference({0: 0.5, 1: 0.7, 9: 0.0}, {1: 0.4, 0: 0.4, 5: 1.0})
  assert found.seeds == 2
  assert found.mean == pytest.approx(0.2)
  alone = paired_difference({0: 0.5}, {0: 0.25})
  assert alone.mean == 0.25
  assert math.isnan(alone.low)
  assert not alone.decided


def test_the_needed_seeds_are_the_fewest_whose_interval_excludes_zero():
  difference = Difference(0.02, -0.03, 0.07, 0.02, 3)
  count = seeds_needed(difference)

  def half(n):  # of the interval, for a sample with this deviation
    sample = np.concatenate([[0.0] * (n % 2), np.tile([-1.0, 1.0], n // 2)])
    sample *= difference.std / np.std(sample, ddof=1)
    return stats.ttest_1samp(sample, 0).confidence_interval(0.95).high

  assert half(count) < 0.02 <= half(count - 1)
  assert seeds_needed(difference._replace(mean=1e-6)) is None
  assert seeds_needed(difference._replace(std=math.nan)) is None


def test_the_best_comes_first_and_those_without_results_last():
  members = [
    contender("a", [0.5, 0.6]),
    contender("b", [], state="diverged"),
    contender("c", [0.7, 0.8], 4_000_000),
    contender("d", [0.7, 0.8]),  # as good, and cheaper
    contender("e", [0.9], state="failed"),  # a failure is not ranked, even with a run
  ]
  assert [one.name for one in ranking.ranked(members, TOP1)] == ["d", "c", "a", "b", "e"]
  for_loss = Criterion("loss", "last")
  assert ranking.ranked(members[:1], for_loss)
  losses = [contender(n, [v], measure="rmse") for n, v in (("a", 2.0), ("b", 1.0))]
  assert [one.name for one in ranking.ranked(losses, Criterion("rmse"))] == ["b", "a"]


def test_scores_are_read_as_told():
  one = contender("a", [0.5], flat=False)
  run = one.runs[0]
  run.summary["best_round"], run.summary["best_top1"] = 30, run.rows[2]["top1"]
  by = {kind: ranking.score(one, Criterion(score=kind)).mean for kind in ("best", "last", "mean")}
  assert by == pytest.approx({"best": 0.15, "last": 0.5, "mean": 0.4})
  assert ranking.reading(run, "loss", "best") == run.rows[2]["loss"]
  del run.summary["best_round"], run.summary["best_top1"]
  assert not ranking.has_score(one, Criterion(score="best"))


def test_the_pareto_front_has_no_cheaper_and_better_contender():
  rng = np.random.default_rng(0)
  members = [
    contender(str(i), [score], int(sent))
    for i, (score, sent) in enumerate(
      zip(rng.random(30), rng.integers(1, 9, 30) * 1000, strict=True)
    )
  ]
  score_of = {one.name: ranking.score(one, TOP1).mean for one in members}

  def beaten(one):
    return any(
      score_of[o.name] >= score_of[one.name]
      and ranking.sent(o) <= ranking.sent(one)
      and (score_of[o.name], -ranking.sent(o)) != (score_of[one.name], -ranking.sent(one))
      for o in members
    )

  front = ranking.pareto_front(members, TOP1)
  assert {one.name for one in front} == {one.name for one in members if not beaten(one)}
  assert [ranking.sent(one) for one in front] == sorted(ranking.sent(one) for one in front)


def test_bytes_that_hardly_differ_leave_the_better_one_on_the_front():
  members = [contender("a", [0.9], 13_600_000), contender("b", [0.8], 13_500_000)]
  assert [one.name for one in ranking.pareto_front(members, TOP1)] == ["a"]
  members.append(contender("c", [0.7], 12_000_000))
  assert [one.name for one in ranking.pareto_front(members, TOP1)] == ["c", "a"]


def test_the_target_is_one_point_below_the_baseline_and_its_costs_are_counted():
  members = [contender("gn, fedavg", [0.8, 0.82]), contender("gn, gaia", [0.9, 0.5])]
  assert ranking.target(members, Criterion(target=0.7)) == 0.7
  target = ranking.target(members, Criterion(baseline="fedavg"))
  assert target == pytest.approx(0.80)
  reached = ranking.cost_to_target(members[1], TOP1, target)
  assert reached[:3] == (1, 30, 600_000)  # one of two seeds, in the third of ten evaluations
  assert math.isnan(reached.seconds)
  rmse = Criterion("rmse", baseline="fedavg")
  losses = [contender("gn, fedavg", [2.0], measure="rmse")]
  assert ranking.target(losses, rmse) == pytest.approx(2.02)
  assert math.isnan(ranking.target([contender("a", [], state="failed")], TOP1))


@pytest.mark.parametrize(("flat", "improves"), [(True, False), (False, True)])
def test_a_curve_that_still_rises_is_noticed(flat, improves):
  one = contender("a", [0.8, 0.9], flat=flat)
  values = np.array([[row["val_top1"] for row in run.rows] for run in one.runs])
  expected = (values[:, -3:].mean(1) - values[:, -6:-3].mean(1)).mean()
  assert ranking.gain(one, TOP1) == pytest.approx(expected)
  assert ranking.still_improves(one, TOP1) == improves


def test_an_estimate_has_the_deviation_of_a_sample():
  found = statistics.estimate([1.0, 2.0, 4.0, math.nan])
  assert found == (pytest.approx(7 / 3), pytest.approx(np.std([1, 2, 4], ddof=1)), 3)
