"""Merging moments against the moments of the whole, in NumPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedjax_norm.norm import moments as lib
from fedjax_norm.norm.moments import Moments

PARTS, MOST, CHANNELS = 4, 6, 3
QUICK = settings(max_examples=60, deadline=None, derandomize=True)

VALUES = hnp.arrays(np.float64, (PARTS, MOST, CHANNELS), elements=st.floats(-10, 10, width=32))
COUNTS = hnp.arrays(np.int64, PARTS, elements=st.integers(0, MOST))
OFFSET = st.sampled_from([0.0, -3.0, 1000.0])  # E[x^2] - E[x]^2 would fail at the last
ONE_ROW = np.arange(PARTS * MOST * CHANNELS, dtype=np.float64).reshape(PARTS, MOST, CHANNELS) % 7


def of(values: np.ndarray) -> Moments:
  """The moments of [n, C], by NumPy."""
  if not len(values):
    return Moments(0.0, np.zeros(CHANNELS), np.zeros(CHANNELS))
  return Moments(float(len(values)), values.mean(0), ((values - values.mean(0)) ** 2).sum(0))


def split(values, counts, offset):
  """(the moments of each part stacked, those of the whole, the whole)."""
  parts = [part[:count] + offset for part, count in zip(values, counts, strict=True)]
  local = [of(part) for part in parts]
  stacked = Moments(
    *(jnp.asarray(np.stack(field), jnp.float32) for field in zip(*local, strict=True))
  )
  whole = np.concatenate(parts)
  return stacked._replace(count=stacked.count[:, None]), of(whole), whole


def assert_same(actual: Moments, expected: Moments):
  np.testing.assert_allclose(actual.count, np.broadcast_to(expected.count, actual.count.shape))
  np.testing.assert_allclose(actual.mean, expected.mean, rtol=1e-5, atol=1e-5)
  # Means near 1000 are known to 6e-5, deviations are at most 20, and there are at most 24 values.
  np.testing.assert_allclose(actual.m2, expected.m2, rtol=1e-4, atol=2e-2)


@jax.jit
def merged_every_way(parts: Moments) -> list[Moments]:
  """Each the merge of all parts, by other means."""
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
def test_a_merged_split_has_the_moments_of_the_whole(values, counts, offset):
  parts, expected, _ = split(values, counts, offset)
  for merged in merged_every_way(parts):
    assert_same(merged, expected)


def test_only_the_differences_of_means_are_left_between_single_values():
  parts = Moments(jnp.ones((3, 1)), jnp.array([[1.0], [2.0], [6.0]]), jnp.zeros((3, 1)))
  merged = lib.merge(parts)
  assert (merged.count.item(), merged.mean.item(), merged.m2.item()) == (3.0, 3.0, 14.0)


@QUICK
@given(VALUES, COUNTS)
@example(ONE_ROW, np.array([1, 0, 0, 0]))
@example(ONE_ROW, np.zeros(PARTS, np.int64))
def test_variances_are_numpys(values, counts):
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
def test_sums_add_as_moments_merge(values, counts, offset, away):
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
  # weights of any scale leave the mean and the variance: the sums may have been averaged
  scaled = lib.from_sums(tuple(0.01 * part for part in (count, first, second)), shift)
  np.testing.assert_allclose(scaled.mean, merged.mean, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(100 * scaled.m2, merged.m2, rtol=1e-3, atol=2e-2)


@QUICK
@given(VALUES, COUNTS, OFFSET, st.floats(-2, 2, width=32))
def test_sums_go_back_to_moments(values, counts, offset, away):
  parts, _, _ = split(values, counts, offset)
  shift = jnp.float32(offset + away)
  back = lib.from_sums(lib.to_sums(parts, shift), shift)
  some = np.asarray(counts) > 0
  assert_same(
    jax.tree.map(lambda a: a[some], back), jax.tree.map(lambda a: np.asarray(a)[some], parts)
  )
  np.testing.assert_array_equal(np.asarray(back.m2)[~some], 0)  # and nothing is not a number
  np.testing.assert_array_equal(np.asarray(back.mean)[~some], shift)


def test_rounding_leaves_no_negative_deviation():
  impossible = lib.from_sums((4.0, 2.0, 0.9999), 0.0)  # sum (x^2) < (sum x)^2 / n
  assert (impossible.mean, impossible.m2) == (0.5, 0.0)
