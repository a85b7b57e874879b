"""The search for a learning rate, on planted scores."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_norm.study.contender import Trial
from fedjax_norm.study.planning import tuning
from fedjax_norm.study.planning.axes import RATES
from fedjax_norm.study.planning.tuning import Search, next_trials


def run(score, rates=RATES, extends=True, measure="top1", steps=(25, 50)):
  """Searches with ``score``, (rate, local steps) -> value or None; returns (choice, trials)."""
  search, trials = Search(rates, steps, extends, "best", measure), []
  while isinstance(found := next_trials(trials, search), list):
    assert found
    assert not {(trial.lr, trial.steps) for trial in trials} & set(found), "trained twice"
    trials += [Trial(*one, score(*one)) for one in found]
  assert found.trials == tuple(trials)
  return found, [(trial.lr, trial.steps) for trial in trials]


def near(best):
  return lambda rate, steps: -abs(math.log(rate / best))


def test_the_best_two_rates_train_longer():
  found, trials = run(near(0.04))
  assert trials == [*((rate, 25) for rate in RATES), (0.03, 50), (0.1, 50)]
  assert (found.lr, found.runner_up, found.edge) == (0.03, 0.1, None)


def test_the_longer_trials_decide():
  late = {(0.03, 50): 0.5, (0.1, 50): 0.9}
  found, _ = run(lambda *one: late.get(one, near(0.04)(*one)))
  assert (found.lr, found.runner_up) == (0.1, 0.03)


@pytest.mark.parametrize(
  ("best", "added", "edge"),
  [
    (0.8, [1.0], None),  # 0.3 and 1.0 are best: 1.0 is at the edge of its grid, and 3.0 is tried
    (100.0, [1.0, 3.0], "highest"),
    (0.0012, [0.001], None),
    (1e-9, [0.001, 0.0003], "lowest"),
  ],
)
def test_the_grid_grows_beyond_a_best_rate_at_its_edge(best, added, edge):
  found, trials = run(near(best))
  short = [rate for rate, steps in trials if steps == 25]
  assert short[: 5 + len(added)] == [*RATES, *added]
  assert len(short) <= 7
  assert found.edge == edge


def test_a_given_grid_does_not_grow():
  found, trials = run(near(9), rates=(0.1, 0.2), extends=False)
  assert trials == [(0.1, 25), (0.2, 25), (0.2, 50), (0.1, 50)]
  assert (found.lr, found.edge) == (0.2, "highest")


def test_equal_scores_choose_the_middle():
  found, trials = run(lambda *_: 1.0)
  assert (found.lr, found.runner_up, found.edge) == (0.03, 0.01, None)
  assert len(trials) == 7


def test_diverged_rates_are_never_chosen():
  found, _ = run(lambda rate, steps: None if rate > 0.02 else rate)
  assert (found.lr, found.runner_up, found.edge) == (0.01, 0.003, None)


def test_the_grid_grows_downwards_if_training_diverges_everywhere():
  found, trials = run(lambda rate, steps: None if rate > 0.0005 else 1.0)
  assert [rate for rate, steps in trials if steps == 25] == [*RATES, 0.001, 0.0003]
  assert (found.lr, found.runner_up, found.edge) == (0.0003, None, "lowest")
  found, trials = run(lambda *_: None)
  assert len(trials) == 7
  assert all(trial.value is None for trial in found.trials)


def test_a_rate_that_diverges_in_the_longer_trial_is_replaced():
  def score(rate, steps):
    return None if (rate, steps) == (0.1, 50) else near(0.06)(rate, steps)

  found, trials = run(score)
  assert trials[5:] == [(0.1, 50), (0.03, 50), (0.3, 50)]
  assert (found.lr, found.runner_up) == (0.03, 0.3)


def test_lower_losses_are_better():
  found, _ = run(lambda rate, steps: abs(math.log(rate / 0.1)), measure="loss")
  assert found.lr == 0.1


@given(
  st.dictionaries(
    st.tuples(st.sampled_from([0.0003, 0.001, *RATES, 1.0, 3.0]), st.sampled_from([25, 50])),
    st.none() | st.floats(0, 1),
  ),
  st.booleans(),
)
def test_every_search_ends_within_its_effort(table, extends):
  found, trials = run(lambda *one: table.get(one), extends=extends)
  short = sum(steps == 25 for _, steps in trials)
  assert short <= (7 if extends else 5)
  finite = [trial for trial in found.trials if trial.value is not None]
  if finite:
    assert found.lr in {trial.lr for trial in finite}
  assert found.runner_up != found.lr


def test_rungs_are_shares_of_a_final_run_or_the_least_meaningful_trial():
  assert tuning.rungs(400, 40) == (100, 200)
  assert tuning.rungs(100, 40) == (40, 50)
  assert tuning.rungs(60, 40) == (40, 40)
  assert tuning.rungs(30, 40) == (30, 30)


@pytest.mark.parametrize(
  ("rates", "extends", "rungs", "steps"),
  [
    (5, True, (25, 50), 575),
    (5, False, (25, 50), 525),
    (5, False, (50, 50), 550),  # without longer trials
    (1, False, (25, 50), 300),
  ],
)
def test_local_steps_of_a_contender(rates, extends, rungs, steps):
  assert tuning.total_steps(rates, extends, 3, 100, rungs) == steps
  if rates > 1 and not extends:
    _, trials = run(near(0.05), RATES[:rates], extends, steps=rungs)
    assert steps == sum(length for _, length in trials) + 300


@pytest.mark.parametrize(
  ("score", "measure", "value"),
  [("best", "top1", 0.9), ("last", "top1", 0.3), ("mean", "top1", 0.6), ("best", "loss", 1.0)],
)
def test_validation_values_become_one_score(score, measure, value):
  rows = [{"val_top1": v, "val_loss": w} for v, w in ((0.1, 3.0), (0.9, 1.0), (0.3, 0.5))]
  assert tuning.score_of(rows, measure, score, 2) == pytest.approx(value)
