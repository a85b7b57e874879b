"""Sparse updates of Gaia and DGC: which elements are sent, what remains, and their bytes."""

import helpers.reference_decentralized as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.algorithms.costs import ledger
from fedjax_norm.algorithms.dgc import largest, num_sent, roughly_largest
from fedjax_norm.algorithms.gaia import significant
from fedjax_norm.algorithms.residual_updates import all_tensors, divide, each_tensor

# Few lengths, because each length is compiled.
vectors = st.sampled_from([1, 9, 70]).flatmap(
  lambda n: st.tuples(*(st.lists(st.floats(-4, 4, width=16), min_size=n, max_size=n),) * 2)
)


@settings(max_examples=40)
@given(vectors, st.floats(0, 2, width=32))
def test_the_sent_and_the_remaining_part_add_up(vector, theta):
  v, w = (np.array(values, np.float32) for values in vector)
  for chosen in (significant(v, w, theta), largest(v, w, min(theta, 1.0))):
    sent, rest = divide(v, chosen)
    assert not np.any((sent != 0) & (rest != 0))
    np.testing.assert_array_equal(np.where(chosen, sent, rest), v)
    np.testing.assert_array_equal(sent + rest, v)


@settings(max_examples=40)
@given(vectors, st.sampled_from([0.0, 0.25, 0.75, 0.9375, 0.999]))
def test_the_largest_elements_are_chosen_with_ties(vector, sparsity):
  v = np.array(vector[0], np.float32)
  chosen = np.asarray(largest(v, v, sparsity))
  count = int(num_sent(v.size, sparsity))
  assert count == (v.size if sparsity == 0 else max(1, round((1 - sparsity) * v.size)))
  order = np.sort(np.abs(v))[::-1]
  np.testing.assert_array_equal(chosen, np.abs(v) >= order[count - 1])
  assert chosen.sum() >= count


@jax.jit
def masks_of_one_tensor(v, sparsity, key):
  return [
    scope(choose, {"v": v}, {"v": v}, sparsity, key)["v"]
    for choose in (largest, roughly_largest)
    for scope in (each_tensor, all_tensors)
  ]


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 9), st.sampled_from([0.0, 0.75, 0.99]))
def test_with_one_tensor_both_scopes_are_equal(seed, values, sparsity):
  """Also with ties; the sampled threshold uses every second of 600 elements."""
  v = np.random.default_rng(seed).integers(-values, values, (30, 20)).astype(np.float32)
  exact, whole, rough, rough_whole = masks_of_one_tensor(v, sparsity, jax.random.key(seed))
  np.testing.assert_array_equal(exact, whole)
  np.testing.assert_array_equal(rough, rough_whole)


def test_one_threshold_for_all_tensors():
  """The small tensors have the larger elements; a sampled threshold is close to the exact one."""
  shapes = {"small": (50, 6), "large": (200, 100), "scalar": ()}
  v = {
    name: np.random.default_rng(i).normal(size=shape).astype(np.float32) / (i + 1)
    for i, (name, shape) in enumerate(shapes.items())
  }
  magnitudes = np.sort(np.abs(np.concatenate([leaf.ravel() for leaf in v.values()])))
  exact, rough = jax.jit(
    lambda v, key: [all_tensors(choose, v, v, 0.99, key) for choose in (largest, roughly_largest)]
  )(v, jax.random.key(1))
  for name, leaf in v.items():
    np.testing.assert_array_equal(exact[name], np.abs(leaf) >= magnitudes[-203])
  assert 0.1 < exact["small"].mean() < 1
  total = sum(int(mask.sum()) for mask in rough.values())
  assert 100 <= total <= 264
  assert total != 203  # the threshold is that of a sample


def test_a_weight_of_zero_is_significant():
  v, w = np.array([0.1, 0.1, 0.0, 0.3], np.float32), np.array([0, 1, 0, -1], np.float32)
  np.testing.assert_array_equal(significant(v, w, 0.2), [True, False, True, True])
  np.testing.assert_array_equal(significant(v, w, 0.0), [True, True, True, True])


@pytest.mark.parametrize("sparsity", [0.0, 0.9, 0.99])
def test_a_sampled_threshold_is_close(sparsity):
  """It chooses about the wanted share of 20,000 normal numbers, and at most 1.3 times as many."""
  v = jax.random.normal(jax.random.key(1), (200, 100))
  exact = np.asarray(largest(v, v, sparsity))
  rough = np.asarray(roughly_largest(v, v, sparsity, jax.random.key(2)))
  assert 0.5 * exact.sum() <= rough.sum() <= 1.3 * exact.sum()
  smaller, larger = sorted((rough, exact), key=np.sum)
  assert not np.any(smaller & ~larger)  # both choose the largest elements
  if sparsity == 0.9:
    other = np.asarray(roughly_largest(v, v, sparsity, jax.random.key(3)))
    assert (
      rough.sum() != exact.sum() or other.sum() != exact.sum()
    )  # the threshold is that of a sample
  # If all elements are equal, both thresholds choose all of them.
  assert np.all(roughly_largest(jnp.ones(30000), v, sparsity, jax.random.key(2)))
  # A sample of small elements would choose too many, so that the exact threshold replaces it.
  spikes = jnp.zeros(20000).at[::2].set(jnp.arange(10000.0) + 1)
  assert roughly_largest(spikes, v, 0.9, jax.random.key(2)).sum() <= 2600


@settings(max_examples=60)
@given(st.lists(vectors, min_size=1, max_size=3), st.floats(0, 3))
def test_the_ledger_counts_the_bytes_of_a_message(pairs, threshold):
  update = {
    f"t{i}": np.where(np.abs(v) > threshold, v, 0).astype(np.float32)
    for i, (v, _) in enumerate(pairs)
  }
  message = reference.encode(update)
  assert int(ledger.update_bytes(update)) == len(message)
  back = reference.decode(message, {name: value.shape for name, value in update.items()})
  for name, value in update.items():
    np.testing.assert_array_equal(back[name], value)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**31 - 1), max_size=6), st.integers(1, 4095))
def test_counters_do_not_overflow(counts, factor):
  total, expected = ledger.Counter.of(0), 0
  for count in counts:
    total = total.add(ledger.Counter.of(jnp.uint32(count)).times(factor))
    expected += count * factor
  assert total.value() == expected
  assert ledger.Counter.of(expected).value() == expected
