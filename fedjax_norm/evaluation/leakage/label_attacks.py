"""What gradients tell about labels: those that Bob gets back in the U-shape (paper 003, sec. 3.6).

With the cross-entropy of softmax outputs p, the gradient at a cut is J^T (p - onehot(label)) with
the Jacobian J of the tail, so that examples of one class have gradients of like direction however
the tail's parameters are kept (compare Li et al. 2022, "Label leakage and protection in two-party
split learning"). Both attacks look at directions alone: the cosines between gradients.
"""

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

from fedjax_norm.typing import Array, Key

_STEPS = 50


def cosines(gradients: Array) -> Array:
  """The cosines between examples' gradients, [n, ...] -> [n, n]; 0 with one that is 0."""
  rows = gradients.reshape(len(gradients), -1).astype(jnp.float32)
  # The largest value first, for the squares of a well-trained model's gradients vanish.
  largest = jnp.abs(rows).max(1, keepdims=True)
  rows = rows / jnp.where(largest > 0, largest, 1)
  length = jnp.linalg.norm(rows, axis=1, keepdims=True)
  rows = rows / jnp.where(length > 0, length, 1)
  return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def by_known(cosine: Array, labels: Array, known: Array, num_classes: int) -> Array:
  """Guesses labels by the nearest mean direction of the examples whose labels Bob knows.

  Args:
    cosine: [n, n] as of :func:`cosines`.
    labels: [n] int32, of which those that are not known are not looked at.
    known: [n] bool.
    num_classes: C.

  Returns:
    [n] int32.
  """
  members = jax.nn.one_hot(jnp.where(known, labels, -1), num_classes)
  return _nearness(cosine, members).argmax(1).astype(jnp.int32)


def clusters(cosine: Array, num_clusters: int, key: Key, restarts: int = 8) -> Array:
  """Spherical k-means of the gradients' directions, without any label.

  Each example goes to the cluster whose mean direction is nearest, until nothing changes or for 50
  steps. Starts are examples drawn one by one, those far from the others before the rest (Arthur
  and Vassilvitskii 2007); of all starts the one stays that ends with the greatest sum of cosines.

  Args:
    cosine: [n, n] as of :func:`cosines`.
    num_clusters: static.
    key: of the starts.
    restarts: how many starts.

  Returns:
    [n] int32, the cluster of each.
  """

  def begin(key: Key) -> Array:
    def add(index, carry):
      nearest, guess = carry
      chance = jnp.maximum(1 - nearest, 0) + 1e-9
      chosen = jax.random.categorical(jax.random.fold_in(key, index), jnp.log(chance))
      closer = cosine[chosen] > nearest
      return jnp.maximum(nearest, cosine[chosen]), jnp.where(closer, index, guess)

    count = len(cosine)
    start = jnp.full(count, -2.0), jnp.zeros(count, jnp.int32)
    return jax.lax.fori_loop(0, num_clusters, add, start)[1]

  def run(key: Key) -> tuple[Array, Array]:
    def step(_, guess: Array) -> Array:
      return near(guess).argmax(1).astype(jnp.int32)

    def near(guess: Array) -> Array:
      return _nearness(cosine, jax.nn.one_hot(guess, num_clusters))

    guess = jax.lax.fori_loop(0, _STEPS, step, begin(key))
    return guess, near(guess).max(1).sum()

  guesses, gains = jax.lax.map(run, jax.random.split(key, restarts))
  return guesses[gains.argmax()]


def matched_accuracy(found: Array, labels: Array, num_classes: int) -> Array:
  """The share of examples that are right if each cluster is given the class that suits best.

  No two clusters get one class (Kuhn 1955).

  Args:
    found: [n] int32, clusters from 0 to C - 1.
    labels: [n] int32.
    num_classes: C.
  """
  table = jax.nn.one_hot(found, num_classes).T @ jax.nn.one_hot(labels, num_classes)
  return table[hungarian_algorithm(-table)].sum() / len(labels)


def _nearness(cosine: Array, members: Array) -> Array:
  """The cosines [n, K] of examples with the mean directions of groups [n, K]; empty ones are -2.

  The mean of a group with members z is sum z_j u_j, whose length is sqrt(z^T cosine z).
  """
  sums = cosine @ members
  length = jnp.sqrt(jnp.maximum((members * sums).sum(0), 0))
  return jnp.where(length > 0, sums / jnp.where(length > 0, length, 1), -2.0)
