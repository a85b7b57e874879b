"""Counts, means and squared deviations, and how they merge (the law of total variance)."""

import functools
from typing import NamedTuple

import jax
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def merge_over_axes(local: Moments, axis_names: tuple[str, ...]) -> Moments:
  """The same merge over mapped axes: one exchange forward and one backward.

  Forward, every node sends its count, mean and m2 in one message. Backward, with the sums over
  nodes of the derivatives by the merged mean and m2 in one message (for normalization these are the
  sums of dy and dy * xhat up to factors), and with mean_i and n_i of a node,

    d mean_i = n_i / n d mean + 2 n_i (mean_i - mean) d m2,  d m2_i = d m2.

  Args:
    local: a node's own; the count a scalar.
    axis_names: the mapped axes, the outermost first.
  """
  shape = local.mean.shape
  for name in reversed(axis_names):
    message = jnp.concatenate([local.count.reshape(1), local.mean.ravel(), local.m2.ravel()])
    messages = lax.all_gather(message, name)
    mean, m2 = jnp.split(messages[:, 1:], 2, axis=1)
    merged = merge(Moments(messages[:, :1], mean, m2))
    local = Moments(merged.count[0], merged.mean, merged.m2)
  return Moments(local.count, local.mean.reshape(shape), local.m2.reshape(shape))


def _merge_fwd(local, axis_names):
  merged = merge_over_axes(local, axis_names)
  return merged, (local.count, local.mean - merged.mean, merged.count)


def _merge_bwd(axis_names, residuals, derivative):
  own, offset, count = residuals
  dmean, dm2 = lax.psum(jnp.stack([derivative.mean, derivative.m2]), axis_names)
  dmean = own / jnp.maximum(count, 1.0) * dmean + 2 * own * offset * dm2
  return (Moments(jnp.zeros_like(own), dmean, dm2),)


merge_over_axes.defvjp(_merge_fwd, _merge_bwd)


def to_sums(moments: Moments, shift: Array) -> tuple[Array, Array, Array]:
  """Moments as three plain sums about a shift, so that adding them merges them.

  Args:
    moments: any.
    shift: a value near the means (it keeps the sums free of cancellation).

  Returns:
    (n, sum (x - shift), sum (x - shift)^2).
  """
  offset = moments.mean - shift
  return (moments.count, moments.count * offset, moments.m2 + moments.count * offset**2)


def from_sums(sums: tuple[Array, Array, Array], shift: Array) -> Moments:
  """The inverse of :func:`to_sums`."""
  count, first, second = sums
  offset = first / jnp.maximum(count, jnp.finfo(jnp.float32).tiny)
  return Moments(count, shift + offset, jnp.maximum(second - count * offset**2, 0.0))
