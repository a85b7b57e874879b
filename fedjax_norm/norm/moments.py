"""The moments (count, mean, sum of squared deviations) of sets of values, and how they merge."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_norm.typing import Array


class Moments(NamedTuple):
  """The first two moments of a set of values; moments of disjoint sets can be merged exactly.

  Attributes:
    count: number of values, float; broadcasts against ``mean``.
    mean: mean of the values; 0 without values.
    m2: sum of the values' squared deviations from the mean.
  """

  count: Array
  mean: Array
  m2: Array

  @property
  def variance(self) -> Array:
    """The biased variance m2 / count; 0 if there are no values."""
    return self.m2 / jnp.maximum(self.count, 1.0)

  @property
  def unbiased_variance(self) -> Array:
    """The unbiased variance m2 / (count - 1) (paper 000, Alg. 2); 0 for a single value."""
    return self.m2 / jnp.maximum(self.count - 1.0, 1.0)


def merge(parts: Moments, axis: int = 0) -> Moments:
  """Merges the moments of disjoint sets that are stacked along an axis.

  n = sum n_i, mean = sum n_i mean_i / n, m2 = sum (m2_i + n_i (mean_i - mean)^2).
  """
  count = jnp.broadcast_to(parts.count, parts.mean.shape)
  total = count.sum(axis)
  mean = (count * parts.mean).sum(axis) / jnp.maximum(total, 1.0)
  spread = parts.mean - jnp.expand_dims(mean, axis)
  return Moments(total, mean, (parts.m2 + count * spread**2).sum(axis))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def merge_over_axes(local: Moments, axis_names: tuple[str, ...]) -> Moments:
  """Merges the moments of all clients, with one message in each direction.

  In the forward pass, every client sends its count, mean and m2. In the backward pass, the message
  has the sums over clients of the derivatives with respect to the merged mean and m2 (for
  normalization, these are the sums of dy and dy * xhat up to factors). With the count n_i and mean
  mean_i of client i,

    d mean_i = n_i / n d mean + 2 n_i (mean_i - mean) d m2,  d m2_i = d m2.

  Args:
    local: moments of one client, with a scalar count.
    axis_names: names of the mapped axes (vmap, pmap) of the clients, the outermost first.
  """
  shape, own = local.mean.shape, jnp.isnan(local.mean)
  for name in reversed(axis_names):
    message = jnp.concatenate([local.count.reshape(1), local.mean.ravel(), local.m2.ravel()])
    messages = lax.all_gather(message, name)
    mean, m2 = jnp.split(messages[:, 1:], 2, axis=1)
    merged = merge(Moments(messages[:, :1], mean, m2))
    local = Moments(merged.count[0], merged.mean, merged.m2)
  mean, m2 = local.mean.reshape(shape), local.m2.reshape(shape)
  # Both branches are equal. They make the moments an array per client under vmap: if they were one
  # for all clients, the gradient of the sum of the clients' losses would add up their derivatives
  # before the backward pass, which adds them up again.
  return Moments(local.count, *(jnp.where(own, a, a) for a in (mean, m2)))


def _merge_fwd(local: Moments, axis_names: tuple[str, ...]) -> tuple[Moments, Any]:
  merged = merge_over_axes(local, axis_names)
  return merged, (local.count, local.mean - merged.mean, merged.count)


def _merge_bwd(axis_names: tuple[str, ...], residuals: Any, derivative: Moments) -> tuple[Moments]:
  local_count, offset, count = residuals
  dmean, dm2 = lax.psum(jnp.stack([derivative.mean, derivative.m2]), axis_names)
  dmean = local_count / jnp.maximum(count, 1.0) * dmean + 2 * local_count * offset * dm2
  return (Moments(jnp.zeros_like(local_count), dmean, dm2),)


merge_over_axes.defvjp(_merge_fwd, _merge_bwd)


def to_sums(moments: Moments, shift: Array) -> tuple[Array, Array, Array]:
  """Returns (n, sum (x - shift), sum (x - shift)^2): moments as sums, which merge by addition.

  The shift should be near the means, to avoid cancellation in the sums.
  """
  offset = moments.mean - shift
  return (moments.count, moments.count * offset, moments.m2 + moments.count * offset**2)


def from_sums(sums: tuple[Array, Array, Array], shift: Array) -> Moments:
  """Returns the moments for the three sums that :func:`to_sums` returned, given the same shift."""
  count, first, second = sums
  offset = first / jnp.maximum(count, jnp.finfo(jnp.float32).tiny)
  return Moments(count, shift + offset, jnp.maximum(second - count * offset**2, 0.0))
