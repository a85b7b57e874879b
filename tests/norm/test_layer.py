"""Norm layers against flax, torch and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.norm_rows import BATCH, EPSILON, ROWS, SPECS, WITHIN
from helpers.norm_runs import REAL, SHAPE, SHAPES, arrays, arrays_of, assert_close, run, variables

from fedjax_norm.errors import UserError
from fedjax_norm.norm import NAMES, Mode, Norm, create


@functools.partial(jax.jit, static_argnums=0)
def flax_step(oracle, params, x, dy):
  y, pullback = jax.vjp(oracle.apply, {"params": params}, x)
  return y, *pullback(dy)


@pytest.mark.parametrize(
  ("name", "shape", "train"),
  [
    *((name, SHAPE, True) for name, row in ROWS.items() if row.oracle),
    *((name, SHAPE, False) for name in WITHIN),
    *(
      (name, shape, True) for name in ("bgn", "gn", "ln", "cn") for shape in (SHAPES[0], SHAPES[2])
    ),
    ("in", SHAPES[2], True),
  ],
)
def test_norms_equal_flax(name, shape, train):
  """In flax, a norm across the batch is GroupNorm of one example that contains the batch."""
  spec, oracle, across = SPECS[name], ROWS[name].oracle, name in BATCH
  x, dy, gamma, beta, *statistics = arrays_of(spec, shape)
  start = variables(spec, gamma, beta, *statistics if across else ())
  y, (dx, grads), changed = run(spec, x, dy, start, train=train)
  assert bool(changed) == across
  one = (1, -1, shape[-1]) if across else shape
  expected = flax_step(oracle, start["params"], x.reshape(one), dy.reshape(one))
  assert_close(y, expected[0].reshape(shape))
  assert_close(dx, expected[2].reshape(shape))
  for key, grad in expected[1]["params"].items():
    assert_close(grads[key], grad)


def test_every_norm_has_a_row():
  assert {name.partition("-")[0] for name in ROWS} == set(NAMES)
  assert all(row.oracle or name in BATCH for name, row in ROWS.items() if row.reduce)


@pytest.mark.parametrize("name", ["gn", "cn"])
def test_norms_within_an_example_ignore_other_examples_and_the_mask(name):
  spec = SPECS[name]
  x, dy, gamma, beta, *_ = arrays(SHAPE)
  start = variables(spec, gamma, beta)
  one = run(spec, x, dy, start, mask=jnp.asarray(REAL, jnp.float32))
  others = np.where(np.arange(len(x)) == 1, 0, 9).astype(np.float32)[:, None, None, None]
  two = run(spec, x + x * others, dy + others, start, mask=jnp.asarray(~REAL, jnp.float32))
  np.testing.assert_array_equal(one[0][1], two[0][1])
  np.testing.assert_array_equal(one[1][0][1], two[1][0][1])
  assert np.abs(one[1][0][1]).max() > 0


def test_specs_that_do_not_normalize_are_the_identity():
  for name in ("none", "fixup", "wn"):
    x = jnp.asarray(arrays(SHAPE)[0])
    y, start = Norm(create(name)).init_with_output(jax.random.key(0), x, Mode(train=True))
    assert y is x
    assert start == {}


@pytest.mark.parametrize("name", ["bn", "brn", "bgn", "wn-centred"])
def test_the_moments_of_a_batch_can_be_collected(name):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays_of(spec)
  start = variables(spec, gamma, beta, mean, var)
  mask, real = jnp.asarray(REAL, jnp.float32), x[REAL].reshape(18, len(mean), -1).astype(np.float64)
  _, _, changed = run(spec, x, dy, start, mutable=("moments",), mask=mask, step=jnp.int32(15))
  assert set(changed) == {"moments"}  # the running statistics are not mutable
  count, batch_mean, m2 = changed["moments"]["batch"]
  assert count == 18 * real.shape[-1]
  assert_close(batch_mean, real.mean((0, 2)))
  assert_close(m2, count * real.var((0, 2)) if spec.scale else np.zeros(4))
  _, _, changed = run(spec, x, dy, start, mutable=("batch_stats",), mask=mask, step=jnp.int32(15))
  assert set(changed) == {"batch_stats"}
  _, _, changed = run(spec, x, dy, start, train=False)
  assert "moments" not in changed


@pytest.mark.parametrize(
  ("spec", "shape", "message"),
  [
    (create("in"), (3, 1, 1, 4), "'in' would normalize single elements of a 1x1x4 activation"),
    (create("in"), (3, 4), "'in' would normalize single elements of a 4 activation"),
    (create("cn"), (3, 2, 2, 1), "'cn' would normalize single elements of a 2x2x1 activation"),
    (create("gn", group_size=1), (3, 1, 1, 4), "larger groups or another norm"),
    (create("gn", groups=4), (3, 4), "larger groups or another norm"),
    (create("bn"), (1, 1, 1, 4), r"use larger images \(or batches\)"),
    (create("bn"), (1, 4), "'bn' would normalize single elements"),
    (SPECS["brn"], (1, 4), "'brn' would normalize single elements"),
    (SPECS["wn-centred"], (1, 4), "'wn' would normalize single elements"),
    (create("gn", groups=3), (2, 2, 2, 4), "3 groups do not divide a layer of 4 channels"),
    (create("gn", group_size=3), (2, 4), "a group size of 3 does not divide .* 4 channels"),
  ],
)
def test_reductions_over_single_elements_are_rejected(spec, shape, message):
  with pytest.raises(UserError, match=message):
    Norm(spec).init(jax.random.key(0), jnp.ones(shape), Mode(train=True))


def test_evaluation_of_a_single_element_is_accepted():
  one = jnp.full((1, 1, 1, 4), 3.0)
  y, _ = Norm(create("bn")).init_with_output(jax.random.key(0), one, Mode())
  assert_close(y, np.full(one.shape, 3 / np.sqrt(1 + EPSILON)))
