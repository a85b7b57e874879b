"""The round at which FixBN freezes, on artificial trajectories of statistics."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_norm.control.freeze import CALIBRATE, EXPLORE, Freeze, movement


def stats(mean, var):
  """Returns the statistics of two norms with 1 and 2 equal channels."""
  return {
    "Norm_0": {"mean": jnp.full(1, mean), "var": jnp.full(1, var)},
    "Block_0": {"Norm_0": {"mean": jnp.full(2, mean), "var": jnp.full(2, var)}},
  }


def drive(policy, trajectory, start=None):
  """Returns the states after observing the statistics of rounds 1, 2, ...

  The statistics of round 0 have mean 0 and variance 1.
  """
  state, states = policy.init(start or stats(0.0, 1.0)), []
  if policy.round is None:
    state = state._replace(looked_at=np.int32(0))
  for round_, values in enumerate(trajectory, start=1):
    state = policy.observe(state, values, round_)
    states.append(state)
  return states


def frozen_at(states):
  return [int(state.frozen_at) for state in states]


def test_a_fixed_round():
  policy = Freeze(3)
  state = policy.init(stats(0.0, 1.0))
  assert state.last == {}  # it needs no statistics
  assert [policy.phase(state, r) for r in range(5)] == [EXPLORE] * 3 + [CALIBRATE] * 2
  assert [policy.next_change(state, r) for r in range(5)] == [3, 3, 3, None, None]
  states = drive(policy, [stats(0.0, 1.0)] * 5)  # constant statistics, which it does not use
  assert frozen_at(states) == [-1, -1, 3, 3, 3]
  assert policy.phase(states[-1], 0) == CALIBRATE
  assert policy.next_change(states[-1], 0) is None
  # After an interval that ends later, the freeze is at the end of the interval.
  assert policy.observe(state, stats(0.0, 1.0), 4).frozen_at == 4


def test_movement_by_hand():
  before = {"a/mean": [1.0, 2.0], "a/var": [4.0, 1.0], "b/mean": [0.0], "b/var": [9.0]}
  after = {"a/mean": [2.0, 2.0], "a/var": [1.0, 4.0], "b/mean": [-3.0], "b/var": [9.0]}
  before, after = ({k: np.array(v) for k, v in tree.items()} for tree in (before, after))
  # Changes of the means in new standard deviations: 1 / 1, 0 / 2, -3 / 3. Logarithms of the ratios
  # of standard deviations: log(1 / 2), log 2, 0.
  expected = math.sqrt((1 + 0 + 1 + 2 * math.log(2) ** 2) / 6)
  assert movement(before, after) == pytest.approx(expected, rel=1e-4)
  assert movement(after, after) == 0


def test_movement_does_not_depend_on_the_scale_of_a_channel():
  rng = np.random.default_rng(0)
  before, after = (
    {"n/mean": rng.standard_normal(5), "n/var": rng.uniform(0.5, 2, 5)} for _ in range(2)
  )
  scale = rng.uniform(1, 30, 5)

  def scaled(tree):
    return {"n/mean": tree["n/mean"] * scale, "n/var": tree["n/var"] * scale**2}

  original = movement(before, after)
  assert original > 0.1
  assert movement(scaled(before), scaled(after)) == pytest.approx(original, rel=1e-4)


def test_auto_freezes_when_the_statistics_have_stopped_moving():
  policy = Freeze(None, latest=100, tolerance=0.1, patience=2)
  # The mean moves by 1, 0.05, 0.5, 0.05, 0.02 deviations: calm once, moving, calm twice.
  means = np.cumsum([1.0, 0.05, 0.5, 0.05, 0.02, 3.0])
  states = drive(policy, [stats(m, 1.0) for m in means])
  assert [int(s.calm) for s in states[:5]] == [0, 1, 0, 1, 2]
  assert frozen_at(states) == [-1, -1, -1, -1, 5, 5]
  # Only the means have moved, so that half of the six numbers are 0.
  moved = [float(s.movement) for s in states[:5]]
  np.testing.assert_allclose(moved, np.array([1, 0.05, 0.5, 0.05, 0.02]) / np.sqrt(2), rtol=1e-3)
  # After the freeze the state does not change.
  assert states[5] is states[4]
  assert policy.phase(states[4], 5) == CALIBRATE
  assert policy.phase(states[3], 4) == EXPLORE


def test_auto_measures_variances():
  policy = Freeze(None, latest=100, tolerance=0.1, patience=1)
  states = drive(policy, [stats(0.0, v) for v in (2.0, 4.0, 4.1)])
  assert frozen_at(states) == [-1, -1, 3]


@pytest.mark.parametrize(("patience", "at"), [(1, 1), (2, 2), (4, 4)])
def test_patience_counts_evaluations(patience, at):
  states = drive(Freeze(None, latest=50, patience=patience), [stats(0.0, 1.0)] * 5)
  assert frozen_at(states)[at - 1 :] == [at] * (6 - at)
  assert frozen_at(states)[: at - 1] == [-1] * (at - 1)


def test_tolerance():
  trajectory = [stats(0.2 * r, 1.0) for r in range(1, 5)]  # movements of 0.14
  assert frozen_at(drive(Freeze(None, latest=50, tolerance=0.2), trajectory))[-1] == 2
  assert frozen_at(drive(Freeze(None, latest=50, tolerance=0.1), trajectory))[-1] == -1


def test_auto_freezes_at_the_latest_round():
  policy = Freeze(None, latest=3)
  state = policy.init(stats(0.0, 1.0))
  assert [policy.next_change(state, r) for r in range(3)] == [3, 3, 3]
  assert policy.phase(state, 2) == EXPLORE
  assert policy.phase(state, 3) == CALIBRATE
  moving = [stats(float(r), 1.0) for r in range(1, 5)]
  assert frozen_at(drive(policy, moving)) == [-1, -1, 3, 3]


def test_initial_statistics_are_not_a_measurement():
  """If the first measured statistics equal the initial ones, that does not count as calm."""
  policy = Freeze(None, latest=9, patience=1)
  state = policy.init(stats(0.0, 1.0))
  assert np.isinf(state.movement)
  state = policy.observe(state, stats(0.0, 1.0), 1)
  assert np.isinf(state.movement)
  assert state.frozen_at == -1
  assert policy.observe(state, stats(0.0, 1.0), 2).frozen_at == 2


@pytest.mark.parametrize("every", [1, 2, 5, 10])
def test_the_freeze_hardly_depends_on_the_interval_between_evaluations(every):
  """Statistics that converge exponentially, measured at least a window apart."""
  policy = Freeze(None, latest=1000, tolerance=0.1, patience=2, window=10)
  state = policy.init(stats(0.0, 1.0))
  for round_ in range(every, 300, every):
    state = policy.observe(state, stats(5 * (1 - math.exp(-round_ / 30)), 1.0), round_)
  assert state.frozen_at == 90  # the movement at rounds 80 and 90 is 0.097 and 0.070


@pytest.mark.parametrize("policy", [Freeze(4), Freeze(None, latest=9)])
def test_a_restored_state_continues(policy):
  # A checkpoint needs host arrays of the same structure in all rounds.
  trajectory = [stats(m, 1.0) for m in (1.0, 1.02, 1.03, 1.04, 2.0)]
  states = drive(policy, trajectory)
  first = policy.init(stats(0.0, 1.0))
  for state in states:
    leaves, structure = jax.tree.flatten(state)
    assert structure == jax.tree.structure(first)
    for leaf, initial in zip(leaves, jax.tree.leaves(first), strict=True):
      assert isinstance(leaf, np.ndarray | np.generic)
      assert (leaf.dtype, leaf.shape) == (initial.dtype, initial.shape)
  # A state that is restored in the middle has the same results.
  restored = jax.tree.unflatten(
    jax.tree.structure(first), [np.array(leaf) for leaf in jax.tree.leaves(states[1])]
  )
  for round_, values in enumerate(trajectory[2:], start=3):
    restored = policy.observe(restored, values, round_)
    expected = states[round_ - 1]
    assert restored.frozen_at == expected.frozen_at
    assert restored.calm == expected.calm
    assert restored.movement == expected.movement
