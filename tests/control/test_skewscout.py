"""SkewScout's searches on toy objectives, its estimates by hand, and the schedules of theta."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_norm.algorithms.dgc import STAGES, warmup
from fedjax_norm.algorithms.gaia import GAIA
from fedjax_norm.control.skewscout import ScoutConfig, SkewScout
from fedjax_norm.control.theta import ThetaSchedule
from fedjax_norm.errors import UserError

GRID = GAIA.theta.grid


def settle(scout, losses, costs, count, seed=0):
  """Returns (theta indices, last state) of some measurements with a fixed AL and C per theta."""
  state, indices = scout.init(), []
  for number in range(count):
    index = int(state.index)
    indices.append(index)
    state = scout.observe(state, losses[index], costs[index], 500 * (number + 1), seed)
  return indices, state


@pytest.mark.parametrize("best", range(len(GRID)))
@pytest.mark.parametrize("start", [0, 3, 6])
def test_hill_climbing_finds_the_best_theta(best, start):
  """AL is below the tolerance up to the best theta and above it for larger ones."""
  losses = np.where(np.arange(len(GRID)) <= best, 0.04, 0.2 + 0.1 * np.arange(len(GRID)))
  costs = 0.02 / np.array(GRID)
  scout = SkewScout(GRID, start, ScoutConfig(skewscout="hill", scout_memory=0))
  indices, state = settle(scout, losses, costs, 20)
  assert indices[-1] == best
  objective = 50 * np.maximum(0, losses - 0.05) + costs
  assert best == objective.argmin()
  used = np.isfinite(state.losses)
  np.testing.assert_allclose(scout.objective(state)[used], objective[used])


@pytest.mark.parametrize("search", ["stochastic", "annealing"])
def test_random_searches_find_the_best_theta(search):
  losses = np.array([0.01, 0.02, 0.04, 0.3, 0.5, 0.6, 0.7])
  costs = np.array([0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05])
  for seed in range(5):
    scout = SkewScout(GRID, 6, ScoutConfig(skewscout=search))
    indices, _ = settle(scout, losses, costs, 60, seed)
    assert np.bincount(indices[-15:], minlength=7).argmax() == 2
    assert (
      indices == settle(scout, losses, costs, 60, seed)[0]
    )  # the same seed gives the same thetas


def test_stochastic_climbing_prefers_the_larger_improvement():
  """The improvements are 0.3 and 0.1: it chooses the first neighbour three times in four."""
  chosen = []
  for seed in range(200):
    scout = SkewScout((1.0, 2.0, 3.0), 1, ScoutConfig(skewscout="stochastic"))
    known = scout.init()._replace(losses=np.zeros(3), costs=np.array([0.2, 0.5, 0.4]))
    chosen.append(int(scout.observe(known, 0.0, 0.5, 500, seed).index))
  assert set(chosen) == {0, 2}
  assert 0.65 < np.mean(np.array(chosen) == 0) < 0.85


def test_annealing_leaves_a_local_minimum_at_a_high_temperature():
  losses, costs = np.zeros(3), np.array([0.3, 0.5, 0.1])  # a worse theta separates the two minima
  hill = SkewScout((1.0, 2.0, 3.0))
  known = hill.init()._replace(losses=losses, costs=costs)
  assert int(hill.observe(known, 0.0, 0.3, 500).index) == 0
  warm, cold = (
    hill._replace(config=ScoutConfig(skewscout="annealing", scout_temperature=temperature))
    for temperature in (1000.0, 1e-6)
  )
  assert 2 in settle(warm, losses, costs, 40)[0]
  assert int(cold.observe(known, 0.0, 0.3, 500).index) == 0


def test_estimates_of_unused_thetas():
  scout = SkewScout((0.1, 0.2, 0.4, 0.8), start=1)
  state = scout.observe(scout.init(), 0.3, 0.5, 500)
  # Smaller theta: no AL, twice the cost (at most 1). Larger ones: same AL, 1/2 and 1/4 of the cost.
  np.testing.assert_allclose(
    scout.objective(state), [1.0, 50 * 0.25 + 0.5, 50 * 0.25 + 0.25, 50 * 0.25 + 0.125]
  )
  assert int(state.index) == 0
  sparse = SkewScout((0.5, 0.75, 0.999), is_sparsity=True, start=1)
  state = sparse.observe(sparse.init(), 0.0, 0.4, 500)
  np.testing.assert_allclose(sparse.objective(state), [0.8, 0.4, 0.4 * 0.001 / 0.25], rtol=1e-6)
  assert int(state.index) == 2


def test_the_last_measurement_counts():
  scout = SkewScout((1.0, 2.0))
  state = scout.observe(scout.init(), 0.5, 0.9, 500)
  state = scout.observe(state._replace(index=np.int64(0)), 0.1, 0.8, 1000)
  assert (state.losses[0], state.costs[0]) == (0.1, 0.8)


@pytest.mark.parametrize("memory", [0, 8])
def test_one_early_loss_does_not_count_forever(memory):
  """The second test finds a great loss; with the paper's memory, theta then never changes again."""
  scout = SkewScout(GRID, config=ScoutConfig(skewscout="hill", scout_memory=memory))
  state, indices = scout.init(), []
  for look in range(40):
    indices.append(int(state.index))
    loss = 0.9 if indices[-1] and look == 1 else 0.0
    state = scout.observe(state, loss, 0.02 / GRID[indices[-1]], 500 * (look + 1))
  # The loss still counts in the eight tests after that of index 1, but no longer in the ninth.
  assert indices == (
    [0, 1] + [0] * 38 if memory == 0 else [0, 1] + [0] * 9 + [1, 2, 3, 4, 5] + 24 * [6]
  )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 6), st.integers(0, 2**31))
def test_a_loss_counts_until_it_is_too_old(losses, memory, seed):
  config = ScoutConfig(skewscout="annealing", scout_memory=memory, scout_temperature=100.0)
  scout = SkewScout((1.0, 2.0, 4.0, 8.0), 1, config)
  state, last = scout.init(), {}
  for look, loss in enumerate(losses):
    last[int(state.index)] = look, loss
    state = scout.observe(state, loss, 0.3, 500 * (look + 1), seed)
    known = np.full(4, np.nan)
    for index, (when, value) in last.items():
      if memory == 0 or look - when <= memory:
        known[index] = value
    forgetful = scout._replace(config=ScoutConfig(skewscout="hill", scout_memory=0))
    expected = forgetful.objective(state._replace(losses=known))
    np.testing.assert_array_equal(scout.objective(state), expected)
    counts = np.isfinite(known)
    measured = 50 * np.maximum(0, known[counts] - 0.05) + 0.3
    np.testing.assert_allclose(scout.objective(state)[counts], measured)


def test_a_measurement_waits_for_the_last_local_step():
  scout = SkewScout((5.0, 200.0, 1000.0), is_integer=True)
  state = scout.init()
  assert int(state.next_look) == 500
  assert int(scout._replace(start=1).init().next_look) == 600
  state = scout.observe(state, 0.0, 0.2, 500)
  assert (int(state.index), int(state.next_look), int(state.since)) == (1, 1100, 500)
  assert int(SkewScout((5.0, 200.0), start=1).init().next_look) == 500


def test_without_a_search_theta_does_not_change():
  scout = SkewScout(GRID, 2, ScoutConfig(skewscout="measure"))
  indices, state = settle(scout, np.linspace(0, 1, 7), np.linspace(1, 0, 7), 4)
  assert indices == [2] * 4
  assert state.losses[2] == pytest.approx(2 / 6)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"skewscout": "best"}, "skewscout"),
    ({"scout_grid": (1.0, 1.0)}, "different"),
    ({"scout_grid": (2.0, 1.0)}, "rising"),
    ({"scout_every": 0}, "every"),
    ({"scout_sigma_al": -1.0}, "sigma_al"),
    ({"scout_temperature": 0.0}, "temperature"),
    ({"scout_memory": -1}, "memory"),
  ],
)
def test_invalid_options_are_refused(change, words):
  with pytest.raises(UserError, match=words):
    ScoutConfig(**{"skewscout": "annealing", **change})


def test_gaias_threshold_falls_with_the_rate_after_the_warm_up():
  theta_schedule = ThetaSchedule(np.full(6, 0.1, np.float32), follows_rate=True)
  rates = np.array([0.5, 1, 1, 0.1, 0.1, 0.05], np.float32)
  peaks = np.maximum.accumulate(rates)
  thetas = theta_schedule.thetas(0, rates, peaks, None)
  np.testing.assert_allclose(thetas, [0.1, 0.1, 0.1, 0.01, 0.01, 0.005], rtol=1e-6)
  np.testing.assert_allclose(theta_schedule.thetas(3, rates[3:], peaks[3:], None), thetas[3:])
  scout = SkewScout(GRID, start=4)
  scouted = theta_schedule._replace(scout=scout).thetas(3, rates[3:], peaks[3:], scout.init())
  np.testing.assert_allclose(scouted, [0.03, 0.03, 0.015], rtol=1e-6)


def test_the_sparsity_rises_in_stages():
  values = warmup(24, STAGES, 4, 0.999)
  np.testing.assert_allclose(values[::4], [0.75, 0.9375, 0.984375, 0.996, 0.999, 0.999], rtol=1e-6)
  np.testing.assert_allclose(values[3], 0.75)
  np.testing.assert_allclose(warmup(3, STAGES, 0, 0.9), [0.9] * 3, rtol=1e-6)
  np.testing.assert_allclose(warmup(8, STAGES, 1, 0.9), [0.75] + [0.9] * 7, rtol=1e-6)
