"""The attacks on labels: perfect if gradients depend on the class, chance if they do not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.evaluation.leakage import label_attacks as attacks

CLASSES = 4
RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.arange(80) % CLASSES).astype(np.int32)
KNOWN = np.arange(80) < 20

_matched = jax.jit(attacks.matched_accuracy, static_argnums=2)


@jax.jit
def attack(gradients, labels):
  cosine = attacks.cosines(gradients)
  guesses = attacks.by_known(cosine, labels, KNOWN, CLASSES)
  clusters = attacks.clusters(cosine, CLASSES, jax.random.key(0))
  accuracy = jnp.where(KNOWN, 0, guesses == labels).sum() / (~KNOWN).sum()
  return accuracy, attacks.matched_accuracy(clusters, labels, CLASSES)


def gradients():
  """Returns gradients with a direction for each class, any length and some noise."""
  directions = RNG.normal(size=(CLASSES, 3, 5))
  lengths = 10.0 ** RNG.uniform(-25, 2, (80, 1, 1))
  return (lengths * (directions[LABELS] + 0.2 * RNG.normal(size=(80, 3, 5)))).astype(np.float32)


def test_directions_by_class_reveal_all_labels():
  np.testing.assert_allclose(attack(gradients(), LABELS), (1, 1))


def test_shuffled_labels_are_guessed_by_chance():
  by_known, by_clusters = attack(gradients(), RNG.permutation(LABELS))
  assert by_known < 0.45
  assert by_clusters < 0.5


def test_unknown_labels_are_not_used():
  cosine = attacks.cosines(gradients())
  others = np.where(KNOWN, LABELS, (LABELS + 1) % CLASSES)
  guesses = attacks.by_known(cosine, LABELS, KNOWN, CLASSES)
  np.testing.assert_array_equal(guesses, attacks.by_known(cosine, others, KNOWN, CLASSES))


def test_cosines_equal_those_of_numpy_and_are_zero_for_a_zero_gradient():
  rows = RNG.normal(size=(6, 2, 3))
  rows[2] = 0
  flat = rows.reshape(6, 6)
  length = np.linalg.norm(flat, axis=1)
  expected = flat @ flat.T / np.where(np.outer(length, length) > 0, np.outer(length, length), 1)
  np.testing.assert_allclose(attacks.cosines(rows.astype(np.float32)), expected, atol=1e-5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=12, max_size=12))
@settings(max_examples=20)
def test_the_matching_is_the_best_permutation(pairs):
  clusters, labels = np.asarray(pairs, np.int32).T
  best = max(
    np.mean(np.take(order, clusters) == labels) for order in itertools.permutations(range(4))
  )
  np.testing.assert_allclose(_matched(clusters, labels, 4), best, rtol=1e-5)
