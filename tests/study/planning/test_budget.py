"""The effort that fits into a budget."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_norm.errors import UserError
from fedjax_norm.study.planning import budget
from fedjax_norm.study.planning.budget import Cost, effort_of, makespan
from fedjax_norm.study.planning.config import duration


def test_the_time_of_a_contender_by_hand():
  cost = Cost(start=3, compile=5, step=0.1, evaluation=0.2)
  finals = 3 * 2.5  # pictures and tables
  assert cost.cell(100, 575, 3) == pytest.approx(3 + 5 + finals + 5.75 * (10 + 2))
  assert cost.cell(100, 575, 3, phases=2) == pytest.approx(3 + 10 + finals + 5.75 * (10 + 2))


def test_checkpoints_of_trials_are_counted_if_they_are_long():
  cost = Cost(start=0, compile=0, step=0.1, evaluation=0, checkpoint=0.2)
  finals = 3 * 2.5
  assert cost.cell(1000, 5000, 3) == pytest.approx(finals + 500 + 3 * 10 * 0.2)
  assert cost.cell(2000, 10000, 3) == pytest.approx(finals + 1000 + 5 * 10 * 0.2)


def test_the_last_worker_ends_the_study():
  start = makespan([], 2)
  assert makespan([5, 4, 3], 2) == start + 7  # 5, and 4 with 3
  assert makespan([5, 4, 3], 1) == start + 12
  assert makespan([5, 4, 3], 9) == start + 5


@given(st.floats(0.01, 10), st.floats(1, 100), st.integers(1, 50))
def test_the_largest_effort_in_time(step, fixed, least):
  def expected(effort):
    return fixed + step * effort

  available = (2 * expected(least) + 1) / budget.SHARE
  effort, refusal = effort_of(available, least, expected, spent=1.0)
  assert not refusal
  assert 1 + expected(effort) <= budget.SHARE * available < 1 + expected(effort + 1)


def test_a_budget_that_is_too_small_is_refused_with_one_that_is_not():
  def of(available):
    return effort_of(available, 20, lambda effort: 100 + effort, spent=10)

  effort, refusal = of(60)
  assert effort == 20
  assert re.search(r"even 20 local steps .* give --budget=3m, or compare less: fewer", refusal)
  assert of(66) == (20, "")  # a busy machine
  assert of(180)[0] >= 20


def test_durations():
  assert [duration(text) for text in ("90s", "5m", "1.5h")] == [90, 300, 5400]
  for text in ("5", "m", "-1m", "0m", "5 m"):
    with pytest.raises(UserError, match="--budget"):
      duration(text)
