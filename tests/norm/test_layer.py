"""Norm layers against flax, torch and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.norm_rows import BATCH, EPSILON, ROWS, SPECS, WITHIN, bounds_at
from helpers.norm_runs import (
  REAL,
  SHAPE,
  SHAPES,
  arrays,
  arrays_of,
  assert_batch_norm,
  assert_close,
  by_channel,
  by_hand,
  run,
  variables,
)

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
    *((name, SHAPE, False) for name in WITHIN if ROWS[name].oracle),
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
  for name, row in ROWS.items():
    assert row.oracle or name in BATCH or not row.reduce, f"{name} needs an oracle: a flax module"


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


def torch_batch_norm(ndim, channels, gamma, beta):
  kind = {2: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}[ndim]
  layer = kind(channels, eps=EPSILON, momentum=0.1)
  layer.weight.data, layer.bias.data = torch.tensor(gamma), torch.tensor(beta)
  return layer


def torch_step(layer, x, dy):
  """Returns (y, dx, dgamma, dbeta) with channels last."""
  x = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
  y = layer(x)
  layer.zero_grad()
  y.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
  y, dx = (np.moveaxis(a.detach().numpy(), 1, -1) for a in (y, x.grad))
  return y, dx, layer.weight.grad.numpy(), layer.bias.grad.numpy()


@pytest.mark.parametrize(
  ("name", "shape"), [*(("bn", shape) for shape in SHAPES), ("sync_bn", SHAPE), ("fixbn", SHAPE)]
)
def test_batch_norm_equals_torch_in_training_and_evaluation(name, shape):
  spec = create(name)
  _, _, gamma, beta, *_ = arrays(shape)
  layer = torch_batch_norm(len(shape), shape[-1], gamma, beta)
  stats = Norm(spec).init(jax.random.key(0), jnp.ones(shape), Mode())["batch_stats"]
  for step in range(4):
    x, dy, *_ = arrays(shape, seed=step)
    train = step < 3
    layer.train(train)
    start = {**variables(spec, gamma, beta), "batch_stats": stats}
    y, (dx, grads), changed = run(spec, x, dy, start, train=train)
    for ours, theirs in zip(
      (y, dx, grads["scale"], grads["bias"]), torch_step(layer, x, dy), strict=True
    ):
      assert_close(ours, theirs)
    stats = changed["batch_stats"]  # torch checks below that evaluation changes nothing
    assert_close(stats["mean"], layer.running_mean.numpy())
    assert_close(stats["var"], layer.running_var.numpy())


def test_decay_is_the_weight_of_the_old_value():
  x, dy, gamma, beta, mean, var = arrays(SHAPE)
  spec = create("bn", decay=0.25)
  result = run(spec, x, dy, variables(spec, gamma, beta, mean, var))
  assert_batch_norm(result, by_hand(x, dy, gamma, beta, mean, var, decay=0.25))


def test_initialization_sets_the_usual_values_and_ignores_the_batch():
  x = jnp.asarray(arrays(SHAPE)[0])
  start = Norm(create("bn")).init(jax.random.key(0), x, Mode(train=True))
  np.testing.assert_array_equal(start["params"]["scale"], np.ones(4))
  np.testing.assert_array_equal(start["params"]["bias"], np.zeros(4))
  np.testing.assert_array_equal(start["batch_stats"]["mean"], np.zeros(4))
  np.testing.assert_array_equal(start["batch_stats"]["var"], np.ones(4))
  assert set(start) == {"params", "batch_stats"}


def test_mean_only_batch_norm_centres():
  spec = SPECS["wn-centred"]
  x, dy, gamma, beta, mean, var = arrays(SHAPE)
  start = variables(spec, gamma, beta, mean, var)
  assert_batch_norm(run(spec, x, dy, start), by_hand(x, dy, gamma, beta, mean, var, scale=False))
  y, (dx, _), changed = run(spec, x, dy, start, train=False)
  assert_close(y, x - mean + beta)
  assert_close(dx, dy)
  assert_close(changed["batch_stats"]["mean"], mean)


@pytest.mark.parametrize("name", BATCH)
def test_a_masked_batch_equals_the_batch_without_padding(name):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays_of(spec)
  real = REAL
  x[~real] *= 1e3
  dy[~real] = 0  # a padded example has no loss
  step = 15
  result = run(
    spec,
    x,
    dy,
    variables(spec, gamma, beta, mean, var),
    mask=jnp.asarray(real, jnp.float32),
    step=jnp.int32(step),
  )
  bounds = bounds_at(step) if name == "brn" else (1.0, 0.0)
  expected = by_hand(x[real], dy[real], gamma, beta, mean, var, scale=spec.scale, bounds=bounds)
  assert_batch_norm(result, expected, real)
  np.testing.assert_array_equal(np.asarray(result[1][0])[~real], 0)


@pytest.mark.parametrize("name", ["bn", "brn", "bgn", "wn-centred"])
def test_a_batch_of_padding_does_not_change_running_statistics(name):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays_of(spec)
  start = variables(spec, gamma, beta, mean, var)
  y, (dx, grads), changed = run(spec, x, 0 * dy, start, mask=jnp.zeros(len(x)), step=jnp.int32(100))
  for key, value in start["batch_stats"].items():
    np.testing.assert_array_equal(changed["batch_stats"][key], value)
  assert np.isfinite(y).all()
  for grad in jax.tree.leaves((dx, grads)):  # not NaN, as 0 times infinity would be
    np.testing.assert_array_equal(grad, np.zeros_like(grad))


@pytest.mark.parametrize("name", ["bn", "brn", "wn-centred"])
def test_a_single_value_changes_the_running_mean_but_not_the_variance(name):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays((3, 4))
  mask = jnp.array([0.0, 1.0, 0.0])
  dy[::2] = 0
  _, (dx, _), changed = run(
    spec, x, dy, variables(spec, gamma, beta, mean, var), mask=mask, step=jnp.int32(0)
  )
  assert_close(changed["batch_stats"]["mean"], 0.9 * mean + 0.1 * x[1])
  if spec.scale:
    np.testing.assert_array_equal(changed["batch_stats"]["var"], var)
  assert_close(dx, np.zeros_like(x))  # a single value equals its mean


@pytest.mark.parametrize("name", ["fixbn", "brn", "bgn", "wn-centred"])
def test_frozen_norms_train_with_the_statistics_of_evaluation(name):
  spec = SPECS[name].frozen()
  x, dy, gamma, beta, mean, var = arrays_of(spec)
  start = variables(spec, gamma, beta, mean, var)
  if not spec.scale:
    gamma, var = np.ones_like(gamma), np.full_like(var, 1 - EPSILON)
  mean, sigma = by_channel(mean), by_channel(np.sqrt(np.float64(var) + EPSILON))
  y, (dx, grads), changed = run(spec, x, dy, start)
  assert_close(y, gamma * (x - mean) / sigma + beta)
  np.testing.assert_array_equal(run(SPECS[name], x, dy, start, train=False)[0], y)
  assert_close(dx, gamma / sigma * dy)
  assert_close(grads["bias"], dy.sum((0, 1, 2)))
  if spec.scale:
    assert_close(grads["scale"], (dy * (x - mean) / sigma).sum((0, 1, 2)))
  jax.tree.map(np.testing.assert_array_equal, changed, {"batch_stats": start["batch_stats"]})
  # One example of one pixel is accepted, because nothing is reduced.
  one, pixel = x[:1, :1, :1], dy[:1, :1, :1]
  y, *_ = run(spec, one, pixel, start)
  assert_close(y, gamma * (one - mean) / sigma + beta)
