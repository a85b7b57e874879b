"""What norms store for the backward pass, their form for accelerators, and the ReLU after them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.norm_rows import SPECS
from helpers.norm_runs import REAL, SHAPE, arrays_of, assert_close, variables
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.norm import Mode, Norm
from fedjax_norm.norm.normalize import Running, batch_moments, normalize

VOLUMES, VECTORS = (6, 2, 3, 2, 4), (6, 4)
# Every kind of reduction and source of statistics.
NORMS = ("gn", "cn", "bn", "bgn", "brn", "wn-centred")


def in_training(spec, x, start, relu=False):
  """Returns the output of a norm layer for a batch with padding."""
  mode = Mode(train=True, mask=jnp.asarray(REAL, jnp.float32), step=jnp.int32(15))
  return Norm(spec, relu=relu).apply(start, x, mode, mutable=["batch_stats"])[0]


@pytest.mark.parametrize("name", [*NORMS, "none"])
def test_a_relu_in_the_norm_equals_a_relu_after_it(name):
  spec = SPECS[name]
  if spec.normalizes:
    x, dy, gamma, beta, *statistics = arrays_of(spec)
    start = variables(spec, gamma, beta, *statistics if "N" in spec.reduce else ())
  else:
    x, dy, start = *arrays_of(SPECS["bn"])[:2], {"params": {}}

  @jax.jit
  def run(x, params):
    def both(x, params):
      after = {**start, "params": params}
      return in_training(spec, x, after, True), jax.nn.relu(in_training(spec, x, after))

    outputs, pullback = jax.vjp(both, x, params)
    zeros = jnp.zeros_like(dy)
    return outputs, pullback((dy, zeros)), pullback((zeros, dy))

  (ours, theirs), gradient, expected = run(x, start["params"])
  assert (ours == 0).any()
  assert (ours > 0).any()
  jax.tree.map(assert_close, (ours, gradient), (theirs, expected))


@pytest.mark.parametrize("name", NORMS)
def test_a_bfloat16_activation_is_normalized_in_float32_and_stored_once(name):
  spec = SPECS[name]
  x, dy, gamma, beta, *statistics = arrays_of(spec)
  start = variables(spec, gamma, beta, *statistics if "N" in spec.reduce else ())
  half, dy = jnp.bfloat16(x), jnp.bfloat16(dy)

  @jax.jit
  def run(x, dy):
    y, pullback = jax.vjp(lambda x: in_training(spec, x, start, True), x)
    return y, pullback(dy)[0]

  y, dx = run(half, dy)
  expected = run(jnp.float32(half), jnp.float32(dy))
  assert y.dtype == dx.dtype == jnp.bfloat16
  for actual, exact in zip((y, dx), expected, strict=True):  # only results are rounded
    np.testing.assert_allclose(jnp.float32(actual), exact, rtol=2**-7, atol=2**-7)
  stored = jax.eval_shape(
    lambda x: jax.vjp(lambda x: in_training(spec, x, start, True), x)[1], half
  )
  activations = [leaf for leaf in jax.tree.leaves(stored) if leaf.shape == SHAPE]
  assert {leaf.dtype for leaf in activations} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
  ("name", "shape"),
  [*((name, SHAPE) for name in NORMS), ("gn", VOLUMES), ("bgn", VOLUMES), ("bn", VECTORS)],
)
def test_statistics_for_accelerators_are_equal(name, shape):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays_of(spec, shape)
  running = Running(mean, var) if "N" in spec.reduce else None

  def step(platform, x, gamma, beta):
    mask, time = jnp.asarray(REAL, jnp.float32), jnp.int32(15)
    gamma = gamma if spec.scale else None
    settings = {"train": True, "mask": mask, "step": time, "platform": platform}
    return normalize(x, spec, gamma, beta, running, **settings)

  @functools.partial(jax.jit, static_argnums=0)
  def run(platform):
    y, pullback, moments = jax.vjp(
      lambda *args: step(platform, *args), x, gamma, beta, has_aux=True
    )
    return y, moments, pullback(jnp.asarray(dy))

  jax.tree.map(assert_close, run("gpu"), run("cpu"))


@settings(max_examples=30, derandomize=True)
@given(
  st.sampled_from(["gn", "bn", "bgn"]), st.floats(-1e4, 1e4, width=32), st.floats(-3, 3, width=32)
)
def test_one_pass_is_accurate_far_from_zero_and_with_an_unusual_first_row(name, offset, row):
  """The variance is off by the rounding of the values, not by that of their squares."""
  spec = SPECS[name]
  rng = np.random.default_rng(0)
  x = rng.standard_normal((4, 8, 8, 4))
  x[:, 0] += 10**row
  x = (offset + x).astype(np.float32)
  moments = batch_moments(jnp.asarray(x), spec, platform="gpu")
  groups = spec.num_groups(4)
  axes = (0, 1, 2, 4) if "N" in spec.reduce else (1, 2, 4)
  grouped = x.astype(np.float64).reshape(4, 8, 8, groups, -1)
  np.testing.assert_allclose(moments.mean.ravel(), grouped.mean(axes).ravel(), rtol=3e-6, atol=1e-5)
  np.testing.assert_allclose(moments.variance.ravel(), grouped.var(axes).ravel(), rtol=2e-5)
