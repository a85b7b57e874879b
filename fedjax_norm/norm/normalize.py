"""Normalizes an activation: the code that all norms share (paper 000, Alg. 3)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_norm.errors import UserError
from fedjax_norm.norm.moments import Moments, merge_over_axes
from fedjax_norm.norm.spec import NormSpec, Renorm
from fedjax_norm.typing import Array


class Running(NamedTuple):
  """Running statistics of one layer with G groups of channels.

  Attributes:
    mean: running means, [G].
    var: unbiased running variances, [G]; None for a norm that only subtracts the mean.
  """

  mean: Array
  var: Array


def batch_moments(x: Array, spec: NormSpec, mask: Array | None = None) -> Moments:
  """Computes the moments over the axes that a norm reduces and, if it merges them, all clients.

  Args:
    x: activation [N, *S, C], float.
    spec: a norm that reduces some axis.
    mask: [N], 0 for padding examples; used only by a reduction over N.

  Returns:
    Moments with a mean of shape [N or 1, *(S or 1), G]. The mean is computed before the squared
    deviations from it.
  """
  *_, channels = x.shape
  groups = spec.num_groups(channels)
  spatial = tuple(range(1, x.ndim - 1)) if "S" in spec.reduce else ()
  per_example = math.prod((channels // groups, *(x.shape[axis] for axis in spatial)))
  if "N" in spec.reduce:
    weight = jnp.ones(x.shape[0], x.dtype) if mask is None else mask.astype(x.dtype)
    count = per_example * weight.sum()
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
  else:
    weight, count = None, jnp.float32(per_example)

  def total(values: Array) -> Array:
    # The sum over space comes first, because folding the whole activation into groups would cost an
    # additional pass over memory.
    values = values.sum(spatial, keepdims=True)
    if weight is not None:
      values = (values * weight).sum(0, keepdims=True)
    return values.reshape(*values.shape[:-1], groups, channels // groups).sum(-1)

  divisor = jnp.maximum(count, 1.0)
  mean = total(x) / divisor
  m2 = jnp.zeros_like(mean)
  if spec.scale:
    # The gradient of m2 with respect to the mean is 0, because deviations from a mean sum to 0.
    m2 = total((x - lax.stop_gradient(_per_channel(mean, channels))) ** 2)
  local = Moments(count, mean, m2)
  return merge_over_axes(local, spec.axis_names) if spec.axis_names else local


def normalize(
  x: Array,
  spec: NormSpec,
  gamma: Array | None,
  beta: Array,
  running: Running | None,
  *,
  train: bool,
  mask: Array | None = None,
  step: Array | None = None,
) -> tuple[Array, Moments | None]:
  """Normalizes an activation: y = gamma (x - mean) / sqrt(var + epsilon) + beta.

  Args:
    x: activation [N, *S, C] of any float dtype; statistics are float32.
    spec: a norm that reduces some axis.
    gamma: scale [C], or None for a norm that only subtracts the mean.
    beta: shift [C].
    running: running statistics; None for a norm without them.
    train: whether to use the statistics of training (``spec.source``) or of evaluation.
    mask: [N], 0 for padding examples.
    step: current time on the ramps of batch renormalization, a scalar.

  Returns:
    (y, moments of the batch; None if the norm does not reduce the batch axis or used the running
    statistics).

  Raises:
    UserError: each mean would be that of a single element, so that the output would be beta.
  """
  _check_reduction(x, spec, train)
  channels, dtype = x.shape[-1], x.dtype
  x = x.astype(jnp.float32)
  moments = None
  if running is not None and (not train or spec.source == "running"):
    mean, var = running
  else:
    moments = batch_moments(x, spec, mask)
    mean, var = moments.mean, moments.variance
  scale, shift = lax.rsqrt(var + spec.epsilon) if spec.scale else jnp.ones_like(mean), beta
  if moments is not None and running is not None and spec.renorm is not None:
    r, d = _corrections(moments, running, spec.renorm, spec.epsilon, step)
    scale, shift = scale * r, _per_channel(d, channels) * gamma + beta
  scale = _per_channel(scale, channels)
  if gamma is not None:
    scale = scale * gamma
  mean = _per_channel(mean, channels)
  shape = (1,) * (x.ndim - mean.ndim) + mean.shape
  y = _affine(x, *(jnp.broadcast_to(a, shape) for a in (mean, scale, shift)))
  return y.astype(dtype), moments if "N" in spec.reduce else None


@jax.custom_vjp
def _affine(x: Array, mean: Array, scale: Array, shift: Array) -> Array:
  """(x - mean) scale + shift, with a backward pass that reads x and dy only twice.

  There is no forward-mode derivative. The mean, scale and shift have the same shape and broadcast
  against x, with size 1 for the axes that are reduced.
  """
  return (x - mean) * scale + shift


def _affine_bwd(residuals: Any, dy: Array) -> tuple[Array, Array, Array, Array]:
  x, mean, scale = residuals
  axes = tuple(axis for axis, size in enumerate(mean.shape) if size == 1)
  dshift = dy.sum(axes, keepdims=True)
  dscale = (dy * (x - mean)).sum(axes, keepdims=True)
  return dy * scale, -scale * dshift, dscale, dshift


_affine.defvjp(
  lambda x, mean, scale, shift: (_affine(x, mean, scale, shift), (x, mean, scale)), _affine_bwd
)


def update_running(running: Running, batch: Moments, decay: float) -> Running:
  """Returns decay * old + (1 - decay) * new for the mean and the unbiased variance of a layer.

  A batch without values changes neither statistic, and a batch with a single value does not change
  the variance.
  """

  def move(old: Array, new: Array, known: Array) -> Array:
    return jnp.where(known, decay * old + (1 - decay) * new.reshape(old.shape), old)

  mean = move(running.mean, batch.mean, batch.count > 0)
  if running.var is None:
    return Running(mean, None)
  return Running(mean, move(running.var, batch.unbiased_variance, batch.count > 1))


def _per_channel(values: Array, channels: int) -> Array:
  """Repeats the value of each group for its channels: [..., G] -> [..., C]."""
  return jnp.repeat(values, channels // values.shape[-1], axis=-1)


def _bounds(ramp: Renorm, step: Array) -> tuple[Array, Array]:
  """Returns (r_max, d_max) at a step."""

  def progress(end: float) -> Array:
    return jnp.clip((step - ramp.start) / max(end - ramp.start, 1e-9), 0.0, 1.0)

  return 1 + (ramp.r_max - 1) * progress(ramp.r_end), ramp.d_max * progress(ramp.d_end)


def _corrections(
  batch: Moments, running: Running, ramp: Renorm, epsilon: float, step: Array
) -> tuple[Array, Array]:
  """Returns r and d of batch renormalization (Ioffe 2017, Alg. 1), as constants of the gradient."""
  if step is None:
    raise ValueError("batch renormalization needs the step, which its bounds depend on; pass step.")
  r_max, d_max = _bounds(ramp, step)
  sigma = jnp.sqrt(running.var + epsilon)
  r = jnp.clip(jnp.sqrt(batch.variance + epsilon) / sigma, 1 / r_max, r_max)
  d = jnp.clip((batch.mean - running.mean) / sigma, -d_max, d_max)
  return lax.stop_gradient(r), lax.stop_gradient(d)


def _check_reduction(x: Array, spec: NormSpec, train: bool) -> None:
  elements = x.shape[-1] // spec.num_groups(x.shape[-1])
  if "S" in spec.reduce:
    elements *= math.prod(x.shape[1:-1])
  if "N" in spec.reduce:
    if not train or spec.source == "running" or spec.axis_names:
      return
    elements *= x.shape[0]
  if elements == 1:
    shape = "x".join(map(str, x.shape[1:]))
    raise UserError(
      f"norm {spec.name!r} would normalize single elements of a {shape} activation to zeros; use "
      "larger images (or batches), larger groups or another norm."
    )
