"""Distance correlation: a measure of any dependence, also nonlinear, between two vectors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_norm.typing import Array


class DistanceCorrelation(NamedTuple):
  """The distance correlation of n pairs of vectors.

  Attributes:
    plain: R_n, from 0 to 1. For long vectors and few pairs it is near 1 even if the vectors are
      independent.
    corrected: signed root of the bias-corrected square R*. For independent vectors it is about 0,
      and can be negative by chance.
  """

  plain: Array
  corrected: Array


def distance_correlation(x: Array, y: Array) -> DistanceCorrelation:
  """Returns the distance correlation of the pairs (x_k, y_k), plain and bias-corrected.

  From the distances a_kl = |x_k - x_l|, centred to A_kl = a_kl - a_k. - a_.l + a_.. (dots: means),
  and from B, the centred distances of y, the plain one is the root of

    R_n^2 = sum A B / sqrt(sum A^2 sum B^2)

  (Szekely, Rizzo and Bakirov 2007, definitions 3 and 4). The corrected one is the signed root of
  the same ratio with U-centred distances, A_kl = a_kl - sum_l a_kl / (n - 2) - sum_k a_kl / (n - 2)
  + sum a / ((n - 1) (n - 2)) off the diagonal and 0 on it (Szekely and Rizzo 2014, definition 2).
  Both are 0 if all x_k or all y_k are equal.

  Args:
    x: [n, ...] float, n at least 4.
    y: [n, ...] float.
  """
  a, b = _distances(x), _distances(y)
  plain = _cosine(_centred(a), _centred(b))
  corrected = _cosine(_u_centred(a), _u_centred(b))
  root = jnp.sqrt(jnp.abs(corrected)) * jnp.sign(corrected)
  return DistanceCorrelation(jnp.sqrt(jnp.maximum(plain, 0)), root)


def _distances(x: Array) -> Array:
  """Returns the Euclidean distances [n, n] between the rows of x [n, ...]."""
  x = x.reshape(len(x), -1).astype(jnp.float32)
  x = x - x.mean(0)  # keeps the distances and makes the squares smaller
  products = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
  squares = jnp.diag(products)
  distances = jnp.sqrt(jnp.maximum(squares[:, None] + squares - 2 * products, 0))
  return distances * (1 - jnp.eye(len(x)))


def _centred(a: Array) -> Array:
  return a - a.mean(0) - a.mean(1, keepdims=True) + a.mean()


def _u_centred(a: Array) -> Array:
  n = len(a)
  rows, columns = a.sum(1, keepdims=True) / (n - 2), a.sum(0) / (n - 2)
  return (a - rows - columns + a.sum() / ((n - 1) * (n - 2))) * (1 - jnp.eye(n))


def _cosine(a: Array, b: Array) -> Array:
  scale = jnp.sqrt((a**2).sum() * (b**2).sum())
  return jnp.where(scale > 0, (a * b).sum() / jnp.where(scale > 0, scale, 1), 0.0)
