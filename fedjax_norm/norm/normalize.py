"""Normalizes an activation: the code that all norms share (paper 000, Alg. 3)."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_norm.errors import UserError
from fedjax_norm.norm.moments import Moments, from_sums, merge_over_axes
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


def batch_moments(
  x: Array, spec: NormSpec, mask: Array | None = None, platform: str | None = None
) -> Moments:
  """Computes the moments over the axes that a norm reduces and, if it merges them, all clients.

  Args:
    x: activation [N, *S, C], float.
    spec: a norm that reduces some axis.
    mask: [N], 0 for padding examples; used only by a reduction over N.
    platform: platform for which the computation is chosen; None for JAX's default backend.

  Returns:
    Moments, float32, with a mean of shape [N or 1, *(S or 1), G].
  """
  *_, channels = x.shape
  size = channels // spec.num_groups(channels)
  for axis in range(1, x.ndim - 1):
    size *= x.shape[axis] if "S" in spec.reduce else 1
  if "N" not in spec.reduce:
    weight, count = None, jnp.float32(size)
  elif mask is None:
    weight, count = None, jnp.float32(size * len(x))
  else:
    weight = mask.astype(jnp.float32).reshape(-1, *[1] * (x.ndim - 1))
    count = size * weight.sum()
  # On an accelerator, an activation's values are read from memory once, which takes most of the
  # time. On a CPU, a second sum is not faster than the sum of squared deviations.
  once = (platform or jax.default_backend()) != "cpu" and "S" in spec.reduce and x.ndim > 2
  local = Moments(count, *_mean_and_m2(spec, once, x, weight, count))
  return merge_over_axes(local, spec.axis_names) if spec.axis_names else local


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mean_and_m2(
  spec: NormSpec, once: bool, x: Array, weight: Array | None, count: Array
) -> tuple[Array, Array]:
  """Returns the mean and m2 of a client's batch; its backward pass needs x in its own dtype only.

  With ``once``, both are computed in a single pass over x, from the sums of deviations from a shift
  and of their squares. The shift is the mean of the first row of the images. As this row is a part
  of the values, the relative error of m2 is at most that of a sum times the number of rows.
  """
  channels = x.shape[-1]
  grouped = (spec.num_groups(channels), channels // spec.num_groups(channels))
  spatial = tuple(range(1, x.ndim - 1)) if "S" in spec.reduce else ()

  def total(values: Array) -> Array:
    # The sum over space comes first, because folding the whole activation into groups would cost an
    # additional pass over memory.
    values = values.sum(spatial, keepdims=True)
    if weight is not None:
      values = values * weight
    values = values.sum(0, keepdims=True) if "N" in spec.reduce else values
    return values.reshape(*values.shape[:-1], *grouped).sum(-1)

  x = x.astype(jnp.float32)
  if once and spec.scale:
    shift = total(x[:, :1]) * x.shape[1] / jnp.maximum(count, 1.0)
    deviation = x - _per_channel(shift, channels)
    return from_sums((count, total(deviation), total(deviation**2)), shift)[1:]
  mean = total(x) / jnp.maximum(count, 1.0)
  if not spec.scale:
    return mean, jnp.zeros_like(mean)
  return mean, total((x - _per_channel(mean, channels)) ** 2)


def _mean_and_m2_fwd(
  spec: NormSpec, once: bool, x: Array, weight: Array | None, count: Array
) -> tuple[tuple[Array, Array], Any]:
  mean, m2 = _mean_and_m2(spec, once, x, weight, count)
  return (mean, m2), (x, weight, count, mean)


def _mean_and_m2_bwd(
  spec: NormSpec, once: bool, residuals: Any, derivative: tuple[Array, Array]
) -> tuple[Array, None, None]:
  # The gradient of m2 with respect to the mean is 0, because deviations from a mean sum to 0.
  del once
  x, weight, count, mean = residuals
  dmean, dm2 = derivative
  dx = _per_channel(dmean / jnp.maximum(count, 1.0), x.shape[-1])
  if spec.scale:
    deviation = x.astype(jnp.float32) - _per_channel(mean, x.shape[-1])
    dx = dx + deviation * _per_channel(2 * dm2, x.shape[-1])
  dx = dx if weight is None else dx * weight
  return jnp.broadcast_to(dx, x.shape).astype(x.dtype), None, None


_mean_and_m2.defvjp(_mean_and_m2_fwd, _mean_and_m2_bwd)


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
  relu: bool = False,
  platform: str | None = None,
) -> tuple[Array, Moments | None]:
  """Normalizes an activation: y = gamma (x - mean) / sqrt(var + epsilon) + beta.

  Args:
    x: activation [N, *S, C] of any float dtype, which y gets; statistics are float32.
    spec: a norm that reduces some axis.
    gamma: scale [C], or None for a norm that only subtracts the mean.
    beta: shift [C].
    running: running statistics; None for a norm without them.
    train: whether to use the statistics of training (``spec.source``) or of evaluation.
    mask: [N], 0 for padding examples.
    step: current time on the ramps of batch renormalization, a scalar.
    relu: whether y is max(0, the above).
    platform: platform for which statistics are computed; None for JAX's default backend.

  Returns:
    (y, moments of the batch; None if the norm does not reduce the batch axis or used the running
    statistics).

  Raises:
    UserError: each mean would be that of a single element, so that the output would be beta.
  """
  _check_reduction(x, spec, train)
  channels, moments = x.shape[-1], None
  if running is not None and (not train or spec.source == "running"):
    mean, var = running
  else:
    moments = batch_moments(x, spec, mask, platform)
    mean, var = moments.mean, moments.variance
  scale, shift = lax.rsqrt(var + spec.epsilon) if spec.scale else jnp.ones_like(mean), beta
  if moments is not None and running is not None and spec.renorm is not None:
    r, d = _corrections(moments, running, spec.renorm, spec.epsilon, step)
    scale, shift = scale * r, _per_channel(d, channels) * gamma + beta
  y = _affine(relu, x, mean, scale, gamma, shift)
  return y, moments if "N" in spec.reduce else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _affine(
  relu: bool, x: Array, mean: Array, scale: Array, gamma: Array | None, shift: Array
) -> Array:
  """(x - mean) scale gamma + shift in the dtype of x, then a ReLU if ``relu``.

  The backward pass reads x and dy only twice, and stores no other activation. There is no
  forward-mode derivative. The mean and scale [..., G] and the shift [..., C] are float32.
  """
  mean, scale, shift = _expanded(x.ndim, mean, scale, gamma, shift)
  y = (x.astype(jnp.float32) - mean) * scale + shift
  return (jax.nn.relu(y) if relu else y).astype(x.dtype)


def _expanded(
  ndim: int, mean: Array, scale: Array, gamma: Array | None, shift: Array
) -> tuple[Array, Array, Array]:
  """Returns mean, scale and shift in one shape, with size 1 for the axes that are reduced."""
  channels = shift.shape[-1]
  mean, scale = _per_channel(mean, channels), _per_channel(scale, channels)
  scale = scale if gamma is None else scale * gamma
  shape = (1,) * (ndim - mean.ndim) + mean.shape
  return jnp.broadcast_to(mean, shape), scale.reshape(shape), jnp.broadcast_to(shift, shape)


def _affine_bwd(relu: bool, residuals: Any, dy: Array) -> tuple[Array, ...]:
  x, *parts = residuals
  (mean, scale, shift), pullback = jax.vjp(functools.partial(_expanded, x.ndim), *parts)
  axes = tuple(axis for axis, size in enumerate(mean.shape) if size == 1)
  deviation, dy = x.astype(jnp.float32) - mean, dy.astype(jnp.float32)
  if relu:
    dy = jnp.where(deviation * scale + shift > 0, dy, 0.0)
  dshift = dy.sum(axes, keepdims=True)
  dscale = (dy * deviation).sum(axes, keepdims=True)
  return (dy * scale).astype(x.dtype), *pullback((-scale * dshift, dscale, dshift))


_affine.defvjp(lambda relu, *args: (_affine(relu, *args), args), _affine_bwd)


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
