"""Merged moments against the moments of all values, in NumPy and float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.collectives import collectives
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedjax_norm.norm import moments as lib
from fedjax_norm.norm.moments import Moments

PARTS, MOST, CHANNELS = 4, 6, 3
QUICK = settings(max_examples=60, derandomize=True)

VALUES = hnp.arrays(np.float64, (PARTS, MOST, CHANNELS), elements=st.floats(-10, 10, width=32))
COUNTS = hnp.arrays(np.int64, PARTS, elements=st.integers(0, MOST))
OFFSET = st.sampled_from([0.0, -3.0, 1000.0])  # E[x^2] - E[x]^2 would be inexact for 1000
ONE_ROW = np.arange(PARTS * MOST * CHANNELS, dtype=np.float64).reshape(PARTS, MOST, CHANNELS) % 7


def moments_by_numpy(values: np.ndarray) -> Moments:
  """Returns the moments of [n, C]."""
  if not len(values):
    return Moments(0.0, np.zeros(CHANNELS), np.zeros(CHANNELS))
  return Moments(float(len(values)), values.mean(0), ((values - values.mean(0)) ** 2).sum(0))


def split(values, counts, offset):
  """Returns (the stacked moments of the parts, the moments of all values, all values)."""
  parts = [part[:count] + offset for part, count in zip(values, counts, strict=True)]
  local = [moments_by_numpy(part) for part in parts]
  stacked = Moments(
    *(jnp.asarray(np.stack(field), jnp.float32) for field in zip(*local, strict=True))
  )
  whole = np.concatenate(parts)
  return stacked._replace(count=stacked.count[:, None]), moments_by_numpy(whole), whole


def assert_same(actual: Moments, expected: Moments):
  np.testing.assert_allclose(actual.count, np.broadcast_to(expected.count, actual.count.shape))
  np.testing.assert_allclose(actual.mean, expected.mean, rtol=1e-5, atol=1e-5)
  # The rounding error of means near 1000 is 6e-5; deviations are at most 20, of at most 24 values.
  np.testing.assert_allclose(actual.m2, expected.m2, rtol=1e-4, atol=2e-2)


@jax.jit
def merged_every_way(parts: Moments) -> list[Moments]:
  """Merges all parts in several ways."""
  swapped = jax.tree.map(lambda a: jnp.broadcast_to(a, parts.mean.shape).T, parts)
  over_one = jax.vmap(lambda part: lib.merge_over_axes(part, ("i",)), axis_name="i")(parts)
  inner = jax.vmap(lambda part: lib.merge_over_axes(part, ("i", "j")), axis_name="j")
  grid = jax.tree.map(lambda a: a.reshape(2, PARTS // 2, *a.shape[1:]), parts)
  over_two = jax.vmap(inner, axis_name="i")(grid)
  halves = jax.tree.map(lambda a: a.reshape(2, PARTS // 2, *a.shape[1:]), parts)
  return [
    lib.merge(parts),
    lib.merge(swapped, axis=1),
    *[jax.tree.map(lambda a, i=i: a[i], over_one) for i in range(PARTS)],
    *[jax.tree.map(lambda a, i=i: a[1, i], over_two) for i in range(PARTS // 2)],
    lib.merge(jax.vmap(lib.merge)(halves)),  # merging is associative
  ]


@QUICK
@given(VALUES, COUNTS, OFFSET)
@example(ONE_ROW, np.array([0, 6, 0, 1]), 0.0)
@example(ONE_ROW, np.zeros(PARTS, np.int64), 0.0)
@example(ONE_ROW, np.array([1, 0, 0, 0]), 1000.0)
def test_merged_moments_are_the_moments_of_all_values(values, counts, offset):
  parts, expected, _ = split(values, counts, offset)
  for merged in merged_every_way(parts):
    assert_same(merged, expected)


def test_merging_single_values_gives_their_deviations():
  parts = Moments(jnp.ones((3, 1)), jnp.array([[1.0], [2.0], [6.0]]), jnp.zeros((3, 1)))
  merged = lib.merge(parts)
  assert (merged.count.item(), merged.mean.item(), merged.m2.item()) == (3.0, 3.0, 14.0)


@QUICK
@given(VALUES, COUNTS)
@example(ONE_ROW, np.array([1, 0, 0, 0]))
@example(ONE_ROW, np.zeros(PARTS, np.int64))
def test_variances_equal_numpy(values, counts):
  parts, _, whole = split(values, counts, 0.0)
  merged = lib.merge(parts)
  count = len(whole)
  biased = whole.var(0) if count else np.zeros(CHANNELS)
  unbiased = whole.var(0, ddof=1) if count > 1 else np.zeros(CHANNELS)
  np.testing.assert_allclose(merged.variance, biased, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(merged.unbiased_variance, unbiased, rtol=1e-4, atol=1e-4)


@QUICK
@given(VALUES, COUNTS, OFFSET, st.floats(-2, 2, width=32))
@example(ONE_ROW, np.array([0, 0, 2, 1]), 1000.0, 0.5)
def test_adding_sums_merges_moments(values, counts, offset, away):
  parts, expected, whole = split(values, counts, offset)
  shift = jnp.float32(offset + away)
  sums = lib.to_sums(parts, shift)
  count, first, second = (np.broadcast_to(part, (PARTS, CHANNELS)).sum(0) for part in sums)
  about = whole - np.float64(shift)
  assert count[0] == len(whole)
  np.testing.assert_allclose(first, about.sum(0), rtol=1e-4, atol=1e-2)
  np.testing.assert_allclose(second, (about**2).sum(0), rtol=1e-4, atol=2e-2)
  merged = lib.from_sums((count, first, second), shift)
  if len(whole):
    assert_same(merged, expected)
  # Scaling the sums changes neither the mean nor the variance, so the sums can be averaged.
  scaled = lib.from_sums(tuple(0.01 * part for part in (count, first, second)), shift)
  np.testing.assert_allclose(scaled.mean, merged.mean, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(100 * scaled.m2, merged.m2, rtol=1e-3, atol=2e-2)


@QUICK
@given(VALUES, COUNTS, OFFSET, st.floats(-2, 2, width=32))
def test_from_sums_inverts_to_sums(values, counts, offset, away):
  parts, _, _ = split(values, counts, offset)
  shift = jnp.float32(offset + away)
  back = lib.from_sums(lib.to_sums(parts, shift), shift)
  some = np.asarray(counts) > 0
  assert_same(
    jax.tree.map(lambda a: a[some], back), jax.tree.map(lambda a: np.asarray(a)[some], parts)
  )
  np.testing.assert_array_equal(np.asarray(back.m2)[~some], 0)  # not NaN
  np.testing.assert_array_equal(np.asarray(back.mean)[~some], shift)


def test_rounding_makes_no_negative_m2():
  impossible = lib.from_sums((4.0, 2.0, 0.9999), 0.0)  # sum (x^2) < (sum x)^2 / n
  assert (impossible.mean, impossible.m2) == (0.5, 0.0)


# The number of examples of each client in a grid of 2 by 3, padded to 4.
GRID, PLACES = (2, 3), 4
FILLED = {
  "unequal": [[4, 1, 3], [2, 4, 1]],
  "two empty": [[0, 3, 1], [4, 0, 2]],
  "all on one": [[0, 0, 0], [0, 4, 0]],
  "all empty": [[0, 0, 0], [0, 0, 0]],
}


def normalized_sum(x, weight, moments, coefficients):
  """A loss that depends on every value, the mean and the variance, as in a norm layer."""
  y = (x - moments.mean) / jnp.sqrt(moments.variance + 0.1)
  return (jnp.tanh(coefficients * y + 0.3 * y**2) * weight[:, None]).sum()


def moments_of(x, weight):
  """Returns the moments of the rows of weight 1, by differentiable sums."""
  count = weight.sum()
  mean = (x * weight[:, None]).sum(0) / jnp.maximum(count, 1.0)
  return Moments(count, mean, ((x - mean) ** 2 * weight[:, None]).sum(0))


@jax.jit
def one_big_batch(x, weight, coefficients):
  """Returns (loss, gradient of x, moments) of the joint batch of all clients, by autodiff."""
  rows = (-1, CHANNELS)

  def loss(x):
    moments = moments_of(x.reshape(rows), weight.ravel())
    value = normalized_sum(x.reshape(rows), weight.ravel(), moments, coefficients.reshape(rows))
    return value, moments

  (value, moments), gradient = jax.value_and_grad(loss, has_aux=True)(x)
  return value, gradient, moments


def client(x, weight, coefficients, axes):
  """Returns (local loss, gradient of all clients' losses for the local x, merged moments)."""

  def loss(x):
    moments = lib.merge_over_axes(moments_of(x, weight), axes)
    return normalized_sum(x, weight, moments, coefficients), moments

  (value, moments), gradient = jax.value_and_grad(loss, has_aux=True)(x)
  return value, gradient, moments


@jax.jit
def merged_clients(x, weight, coefficients):
  """Runs the clients over two axes and over one axis."""
  grid = functools.partial(client, axes=("i", "j"))
  nested = jax.vmap(jax.vmap(grid, axis_name="j"), axis_name="i")(x, weight, coefficients)
  row = [a.reshape(-1, *a.shape[2:]) for a in (x, weight, coefficients)]
  flat = jax.vmap(functools.partial(client, axes=("k",)), axis_name="k")(*row)
  return nested, jax.tree.map(lambda a: a.reshape(GRID + a.shape[1:]), flat)


@pytest.mark.parametrize("case", FILLED)
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_merging_over_axes_equals_one_big_batch_forward_and_backward(case, offset):
  rng = np.random.default_rng(0)
  shape = (*GRID, PLACES, CHANNELS)
  x = (offset + rng.standard_normal(shape)).astype(np.float32)
  coefficients = rng.standard_normal(shape).astype(np.float32)
  weight = (np.arange(PLACES) < np.array(FILLED[case])[..., None]).astype(np.float32)
  loss, gradient, moments = one_big_batch(x, weight, coefficients)
  for values, gradients, merged in merged_clients(x, weight, coefficients):
    np.testing.assert_allclose(values.sum(), loss, rtol=1e-5, atol=1e-5)
    # Gradients depend on deviations, with a rounding error of 4e-6 for a mean of 50.
    np.testing.assert_allclose(gradients, gradient, rtol=1e-4, atol=1e-4)
    for field, expected in zip(merged, moments, strict=True):
      expected = np.broadcast_to(expected, field.shape)  # the same on every client
      np.testing.assert_allclose(field, expected, rtol=1e-5, atol=1e-4)
  if weight.sum() > 1:
    assert np.abs(gradient).max() > 1e-2


def test_the_gradient_of_a_clients_mean_and_m2_equals_autodiff_of_merge():
  rng = np.random.default_rng(1)
  counts = np.array([3.0, 0.0, 2.0, 5.0], np.float32)
  means, m2s = rng.standard_normal((2, 4, CHANNELS)).astype(np.float32)
  weights = rng.standard_normal((2, CHANNELS)).astype(np.float32)

  def readout(merged):
    return (weights[0] * merged.mean + weights[1] * merged.m2).sum()

  def plain(means, m2s):
    return readout(lib.merge(Moments(counts[:, None], means, m2s)))

  def client_gradient(count, mean, m2):
    def loss(mean, m2):
      return readout(lib.merge_over_axes(Moments(count, mean, m2), ("i",)))

    # Each of the four clients reads the merged moments, so the sum of their losses is four times
    # the readout.
    return jax.tree.map(lambda a: a / 4, jax.grad(loss, (0, 1))(mean, m2))

  expected = jax.jit(jax.grad(plain, (0, 1)))(means, m2s)
  actual = jax.jit(jax.vmap(client_gradient, axis_name="i"))(counts, means, m2s)
  for a, b in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [("k",), ("i", "j")])
def test_one_exchange_forward_and_one_backward(axes):
  """Nested axes gather sequentially: first the clients of a device, then the devices."""
  shape = (PLACES, CHANNELS)
  arguments = [jnp.zeros(shape), jnp.zeros(PLACES), jnp.zeros(shape)]
  jaxpr = jax.make_jaxpr(functools.partial(client, axes=axes), axis_env=[(a, 2) for a in axes])
  sent = list(collectives(jaxpr(*arguments).jaxpr))
  forward, backward = 1 + 2 * CHANNELS, 2 * CHANNELS
  gathers = [("all_gather", (axis,), forward, 4 * forward) for axis in reversed(axes)]
  assert sent == [*gathers, ("psum", axes, backward, 4 * backward)]
