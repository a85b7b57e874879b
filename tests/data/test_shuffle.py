import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data.shuffle import permute

# One program for every size: n is traced and the positions are padded.
_SIZE = 300
_permuted = jax.jit(permute)


def permutation(n, seed):
  images = _permuted(jax.random.key(seed), jnp.arange(_SIZE, dtype=jnp.int32), jnp.int32(n))
  return np.asarray(images)[:n]


@given(n=st.integers(1, _SIZE), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_is_a_permutation_of_any_size(n, seed):
  np.testing.assert_array_equal(np.sort(permutation(n, seed)), np.arange(n))


@given(n=st.integers(60, _SIZE), seed=st.integers(0, 2**31))
@settings(max_examples=30)
def test_keys_and_sizes_give_different_permutations(n, seed):
  one, other = permutation(n, seed), permutation(n, seed + 1)
  # Two random permutations agree in one position on average.
  assert (one == other).sum() < 15
  assert (one == np.arange(n)).sum() < 15
  assert (one[: n - 1] == permutation(n - 1, seed)).sum() < n // 2


def test_a_position_does_not_depend_on_the_others():
  key = jax.random.key(5)
  whole = permutation(97, 5)
  part = _permuted(key, jnp.array([[96, 3], [40, 3]], jnp.int32), jnp.int32(97))
  np.testing.assert_array_equal(part, whole[np.array([[96, 3], [40, 3]])])


def test_is_the_same_plain_jitted_and_vmapped():
  keys = jax.random.split(jax.random.key(1), 2)
  sizes = jnp.array([1, 10], jnp.int32)
  positions = jnp.arange(10, dtype=jnp.int32)
  mapped = jax.jit(jax.vmap(permute, (0, None, 0)))(keys, positions, sizes)
  for key, size, row in zip(keys, sizes, mapped, strict=True):
    n = int(size)
    plain = permute(key, positions[:n], n)
    np.testing.assert_array_equal(row[:n], plain)
    np.testing.assert_array_equal(np.sort(plain), np.arange(n))


def chi_square(counts, expected):
  """Returns Pearson's statistic; its mean is the degrees of freedom, its variance twice that."""
  return ((counts - expected) ** 2 / expected).sum()


def many_permutations(n, count):
  keys = jax.random.split(jax.random.key(2024), count)
  positions = jnp.arange(n, dtype=jnp.int32)
  return np.asarray(jax.jit(jax.vmap(lambda k: permute(k, positions, n)))(keys))


def test_every_position_is_equally_likely():
  # counts[p, q]: number of keys that send position p to q. Rows and columns sum to the number of
  # keys, so the statistic has (n - 1)^2 degrees of freedom: mean 361, standard deviation 27.
  n, keys = 20, 8000
  images = many_permutations(n, keys)
  counts = np.zeros((n, n))
  for p in range(n):
    counts[p] = np.bincount(images[:, p], minlength=n)
  degrees = (n - 1) ** 2
  assert abs(chi_square(counts, keys / n) - degrees) < 4 * np.sqrt(2 * degrees)


def test_every_pair_is_equally_likely():
  # Two neighbours go to n (n - 1) ordered pairs, each equally likely; mean 131, deviation 16.
  n, keys = 12, 20000
  images = many_permutations(n, keys)
  pairs = np.bincount(images[:, 4] * n + images[:, 5], minlength=n * n).reshape(n, n)
  assert np.trace(pairs) == 0
  off = pairs[~np.eye(n, dtype=bool)]
  degrees = n * (n - 1) - 1
  assert abs(chi_square(off, keys / (n * (n - 1))) - degrees) < 4 * np.sqrt(2 * degrees)


def test_every_order_of_four_is_equally_likely():
  images = many_permutations(4, 12000)
  codes = np.unique(images @ (4 ** np.arange(4)), return_counts=True)[1]
  assert len(codes) == 24
  assert abs(chi_square(codes, 500) - 23) < 4 * np.sqrt(2 * 23)
