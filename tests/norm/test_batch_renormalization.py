"""Batch renormalization against its formulas (Ioffe 2017)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.norm_rows import SPECS, bounds_at
from helpers.norm_runs import arrays, assert_batch_norm, assert_close, by_hand, run, variables

from fedjax_norm.norm import Renorm, create


def distant_statistics():
  """Returns running statistics so far from the batch's that r and d exceed all bounds."""
  x, dy, gamma, beta, *_ = arrays((6, 2, 2, 5))
  mean = np.array([1.5, -20.0, 1.0, 30.0, 1.4], np.float32)
  var = np.array([4.0, 0.01, 400.0, 4.0, 5.0], np.float32)
  return x, dy, gamma, beta, mean, var


@pytest.mark.parametrize("step", [0, 10, 13, 20, 25, 30, 1000])
def test_batch_renormalization_equals_the_formulas(step):
  x, dy, gamma, beta, mean, var = distant_statistics()
  spec = SPECS["brn"]
  bounds = bounds_at(step)
  expected = by_hand(x, dy, gamma, beta, mean, var, bounds=bounds)
  r, d = expected[-1]
  assert (r > bounds[0]).any()  # every bound is reached
  assert (r < 1 / bounds[0]).any()
  assert (d > bounds[1]).any()
  assert (d < -bounds[1]).any()
  if bounds[1]:
    assert ((r < bounds[0]) & (r > 1 / bounds[0]) & (abs(d) < bounds[1])).any()
  start = variables(spec, gamma, beta, mean, var)
  assert_batch_norm(run(spec, x, dy, start, step=jnp.int32(step)), expected)


def test_batch_renormalization_within_its_bounds_equals_evaluation():
  x, dy, gamma, beta, mean, var = distant_statistics()
  spec = create("brn", renorm=Renorm(1e4, 1e4, 0, 1, 1))
  start = variables(spec, gamma, beta, mean, var)
  trained = run(spec, x, dy, start, step=jnp.int32(1))
  evaluated = run(spec, x, dy, start, train=False)
  assert_close(trained[0], evaluated[0], 1e-4)
  assert np.abs(trained[1][0] - evaluated[1][0]).max() > 0.1  # the gradients differ


def test_batch_renormalization_with_bounds_1_and_0_is_batch_norm():
  x, dy, gamma, beta, mean, var = distant_statistics()
  spec = create("brn", renorm=Renorm(1.0, 0.0, 0, 1, 1))
  start = variables(spec, gamma, beta, mean, var)
  ours = run(spec, x, dy, start, step=jnp.int32(5))
  bn = run(create("bn"), x, dy, start)
  assert jax.tree.structure(ours) == jax.tree.structure(bn)
  jax.tree.map(assert_close, ours, bn)


def test_batch_renormalization_needs_the_step():
  x, dy, gamma, beta, mean, var = distant_statistics()
  spec = SPECS["brn"]
  with pytest.raises(ValueError, match="needs the step"):
    run(spec, x, dy, variables(spec, gamma, beta, mean, var))
