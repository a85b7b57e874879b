"""Infers labels from the gradients that the server receives in the U-shape (paper 003, sec. 3.6).

With the cross-entropy of softmax outputs p, the gradient at a cut is J^T (p - onehot(label)), where
J is the Jacobian of the client's tail. Examples of one class therefore have gradients of similar
direction (compare Li et al. 2022, "Label leakage and protection in two-party split learning"). Both
attacks use only the cosines between gradients, not the tail's parameters.
"""

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

from fedjax_norm.typing import Array, Key

_STEPS = 50


def cosines(gradients: Array) -> Array:
  """Returns the cosines [n, n] between gradients [n, ...]; those of a zero gradient are 0."""
  rows = gradients.reshape(len(gradients), -1).astype(jnp.float32)
  # The gradients of a well-trained model are so small that their squares would underflow.
  largest = jnp.abs(rows).max(1, keepdims=True)
  rows = rows / jnp.where(largest > 0, largest, 1)
  length = jnp.linalg.norm(rows, axis=1, keepdims=True)
  rows = rows / jnp.where(length > 0, length, 1)
  return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def by_known(cosine: Array, labels: Array, known: Array, num_classes: int) -> Array:
  """Guesses labels from some known ones: each example gets the class of the nearest mean direction.

  The mean direction of a class is that of the gradients of its known examples.

  Args:
    cosine: [n, n] cosines (see :func:`cosines`).
    labels: [n] int32 labels; the attack uses only the known ones.
    known: [n] bool mask of the labels that the server knows.
    num_classes: number of classes.

  Returns:
    the guessed labels, [n] int32.
  """
  members = jax.nn.one_hot(jnp.where(known, labels, -1), num_classes)
  return _nearness(cosine, members).argmax(1).astype(jnp.int32)


def clusters(cosine: Array, num_clusters: int, key: Key, restarts: int = 8) -> Array:
  """Clusters gradients by spherical k-means, without any label; returns clusters, [n] int32.

  Each of 50 steps assigns every gradient to the cluster with the nearest mean direction. The
  initial centres are gradients drawn one by one, with a higher chance the farther they are from the
  previous centres (k-means++, Arthur and Vassilvitskii 2007). Of several restarts, the one with the
  largest sum of cosines between gradients and centres gives the result.

  Args:
    cosine: [n, n] cosines (see :func:`cosines`).
    num_clusters: number of clusters, static.
    key: random key of the initial centres.
    restarts: number of restarts.
  """

  def begin(key: Key) -> Array:
    def add_centre(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
      nearest, cluster = carry
      chance = jnp.maximum(1 - nearest, 0) + 1e-9
      centre = jax.random.categorical(jax.random.fold_in(key, index), jnp.log(chance))
      closer = cosine[centre] > nearest
      return jnp.maximum(nearest, cosine[centre]), jnp.where(closer, index, cluster)

    count = len(cosine)
    start = jnp.full(count, -2.0), jnp.zeros(count, jnp.int32)
    return jax.lax.fori_loop(0, num_clusters, add_centre, start)[1]

  def run(key: Key) -> tuple[Array, Array]:
    def nearness(cluster: Array) -> Array:
      return _nearness(cosine, jax.nn.one_hot(cluster, num_clusters))

    def step(_: Array, cluster: Array) -> Array:
      return nearness(cluster).argmax(1).astype(jnp.int32)

    cluster = jax.lax.fori_loop(0, _STEPS, step, begin(key))
    return cluster, nearness(cluster).max(1).sum()

  results, sums = jax.lax.map(run, jax.random.split(key, restarts))
  return results[sums.argmax()]


def matched_accuracy(cluster: Array, labels: Array, num_classes: int) -> Array:
  """Returns the accuracy under the best one-to-one matching of clusters to classes (Kuhn 1955).

  Args:
    cluster: [n] int32 cluster of each example, from 0 to C - 1.
    labels: [n] int32 true labels.
    num_classes: number of classes C.
  """
  table = jax.nn.one_hot(cluster, num_classes).T @ jax.nn.one_hot(labels, num_classes)
  return table[hungarian_algorithm(-table)].sum() / len(labels)


def _nearness(cosine: Array, members: Array) -> Array:
  """Returns the cosines [n, K] of gradients with the mean directions of K groups.

  Column k of ``members`` [n, K] is 1 for the gradients in group k, else 0. Empty groups give -2.
  """
  sums = cosine @ members
  length = jnp.sqrt(jnp.maximum((members * sums).sum(0), 0))
  return jnp.where(length > 0, sums / jnp.where(length > 0, length, 1), -2.0)
