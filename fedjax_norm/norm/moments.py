"""Counts, means and squared deviations, and how they merge (the law of total variance)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from fedjax_norm.typing import Array


class Moments(NamedTuple):
  """The first two moments of a set of values, mergeable exactly.

  Attributes:
    count: how many values, float; broadcasts against ``mean``.
    mean: their mean, 0 when there are none.
    m2: the sum of their squared deviations from the mean.
  """

  count: Array
  mean: Array
  m2: Array

  @property
  def variance(self) -> Array:
    """The biased variance m2 / count (0 when there are no values)."""
    return self.m2 / jnp.maximum(self.count, 1.0)

  @property
  def unbiased_variance(self) -> Array:
    """m2 / (count - 1) (paper 000, Alg. 2: m / (m - 1) of the biased one); 0 for a single value."""
    return self.m2 / jnp.maximum(self.count - 1.0, 1.0)


def merge(parts: Moments, axis: int = 0) -> Moments:
  """Merges moments stacked along an axis.

  n = sum n_i, mean = sum n_i mean_i / n, m2 = sum (m2_i + n_i (mean_i - mean)^2).
  """
  count = jnp.broadcast_to(parts.count, parts.mean.shape)
  total = count.sum(axis)
  mean = (count * parts.mean).sum(axis) / jnp.maximum(total, 1.0)
  spread = parts.mean - jnp.expand_dims(mean, axis)
  return Moments(total, mean, (parts.m2 + count * spread**2).sum(axis))


def merge_over_axes(local: Moments, axis_names: tuple[str, ...]) -> Moments:
  """The same merge over mapped axes: two exchanges forward, and autodiff adds the backward's."""
  count = lax.psum(local.count, axis_names)
  mean = lax.psum(local.count * local.mean, axis_names) / jnp.maximum(count, 1.0)
  return Moments(
    count, mean, lax.psum(local.m2 + local.count * (local.mean - mean) ** 2, axis_names)
  )


def to_sums(moments: Moments, shift: Array) -> tuple[Array, Array, Array]:
  """Moments as three plain sums about a shift, so that adding them merges them.

  Args:
    moments: any.
    shift: a value near the means (it keeps the sums free of cancellation).

  Returns:
    (n, sum (x - shift), sum (x - shift)^2).
  """
  offset = moments.mean - shift
  return (
    moments.count,
    moments.count * offset,
    moments.m2 + moments.count * offset**2,
  )


def from_sums(sums: tuple[Array, Array, Array], shift: Array) -> Moments:
  """The inverse of :func:`to_sums`."""
  count, first, second = sums
  offset = first / jnp.maximum(count, jnp.finfo(jnp.float32).tiny)
  return Moments(count, shift + offset, jnp.maximum(second - count * offset**2, 0.0))
