"""The one code path of every normalization (paper 000, Alg. 3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_norm.errors import UserError
from fedjax_norm.norm.moments import Moments, merge_over_axes
from fedjax_norm.norm.spec import NormSpec, Renorm
from fedjax_norm.typing import Array


class Running(NamedTuple):
  """Running statistics of one layer.

  Attributes:
    mean: [G].
    var: [G], unbiased; None for a norm that only centres.
  """

  mean: Array
  var: Array


def batch_moments(x: Array, spec: NormSpec, mask: Array | None = None) -> Moments:
  """The moments that a spec takes of an activation, over its reduced axes and named axes.

  Args:
    x: [N, *S, C] float.
    spec: a spec that normalizes.
    mask: [N], 0 for padded examples; only a reduction over N looks at it.

  Returns:
    Moments whose mean broadcasts as [N or 1, *(S or 1), G]; the variance is taken in two passes.
  """
  *_, channels = x.shape
  groups = spec.num_groups(channels)
  spatial = tuple(range(1, x.ndim - 1)) if "S" in spec.reduce else ()
  per_example = channels // groups
  for axis in spatial:
    per_example *= x.shape[axis]
  if "N" in spec.reduce:
    weight = jnp.ones(x.shape[0], x.dtype) if mask is None else mask.astype(x.dtype)
    count = per_example * weight.sum()
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
  else:
    weight, count = None, jnp.float32(per_example)

  def total(values: Array) -> Array:
    # First over space, to a small array, and only then over groups and examples: folding the whole
    # activation into groups would cost a pass over memory of its own.
    values = values.sum(spatial, keepdims=True)
    if weight is not None:
      values = (values * weight).sum(0, keepdims=True)
    return values.reshape(*values.shape[:-1], groups, channels // groups).sum(-1)

  divisor = jnp.maximum(count, 1.0)
  mean = total(x) / divisor
  m2 = jnp.zeros_like(mean)
  if spec.scale:
    # Deviations from a mean sum to 0, so that to first order m2 does not change with it.
    m2 = total((x - lax.stop_gradient(_spread(mean, channels))) ** 2)
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
    x: [N, *S, C]; statistics are float32 whatever its dtype.
    spec: a spec that normalizes.
    gamma: [C], or None for a norm that only centres.
    beta: [C].
    running: the running statistics of a spec that has them.
    train: whether the statistics are training's (``spec.source``) or evaluation's.
    mask: [N], 0 for padded examples.
    step: the time on the ramps of batch renormalization, a scalar.

  Returns:
    (y, the batch's moments when they were taken across the batch, else None).

  Raises:
    UserError: the reduction would hold a single element, so that the output would be beta alone.
  """
  _refuse_single_element(x, spec, train)
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
    scale, shift = scale * r, _spread(d, channels) * gamma + beta
  scale = _spread(scale, channels)
  if gamma is not None:
    scale = scale * gamma
  mean = _spread(mean, channels)
  shape = (1,) * (x.ndim - mean.ndim) + mean.shape
  y = _affine(x, *(jnp.broadcast_to(a, shape) for a in (mean, scale, shift)))
  return y.astype(dtype), moments if "N" in spec.reduce else None


@jax.custom_vjp
def _affine(x: Array, mean: Array, scale: Array, shift: Array) -> Array:
  """(x - mean) scale + shift, with a backward pass that reads x and dy twice and no more.

  It has no forward-mode derivative. The mean, scale and shift have one shape of x's rank, with 1
  for what it has in common.
  """
  return (x - mean) * scale + shift


def _affine_bwd(residuals, dy):
  x, mean, scale = residuals
  axes = tuple(axis for axis, size in enumerate(mean.shape) if size == 1)
  dshift = dy.sum(axes, keepdims=True)
  dscale = (dy * (x - mean)).sum(axes, keepdims=True)
  return dy * scale, -scale * dshift, dscale, dshift


_affine.defvjp(
  lambda x, mean, scale, shift: (_affine(x, mean, scale, shift), (x, mean, scale)), _affine_bwd
)


def updated(running: Running, batch: Moments, decay: float) -> Running:
  """Running statistics after a batch: decay old + (1 - decay) new, with the unbiased variance.

  A batch without values leaves both as they were; one of a single value says nothing about the
  variance.
  """

  def move(old: Array, new: Array, known: Array) -> Array:
    return jnp.where(known, decay * old + (1 - decay) * new.reshape(old.shape), old)

  mean = move(running.mean, batch.mean, batch.count > 0)
  if running.var is None:
    return Running(mean, None)
  return Running(mean, move(running.var, batch.unbiased_variance, batch.count > 1))


def _spread(values: Array, channels: int) -> Array:
  """[..., G] -> [..., C]: each group's value at each of its channels."""
  return jnp.repeat(values, channels // values.shape[-1], axis=-1)


def _bounds(ramp: Renorm, step: Array) -> tuple[Array, Array]:
  """(r_max, d_max) at a step."""

  def progress(end: float) -> Array:
    return jnp.clip((step - ramp.start) / max(end - ramp.start, 1e-9), 0.0, 1.0)

  return 1 + (ramp.r_max - 1) * progress(ramp.r_end), ramp.d_max * progress(ramp.d_end)


def _corrections(
  batch: Moments, running: Running, ramp: Renorm, epsilon: float, step: Array
) -> tuple[Array, Array]:
  """r and d of batch renormalization (Ioffe 2017, Alg. 1); gradients do not flow through them."""
  if step is None:
    raise ValueError("batch renormalization needs the step to place itself on its ramps.")
  r_max, d_max = _bounds(ramp, step)
  sigma = jnp.sqrt(running.var + epsilon)
  r = jnp.clip(jnp.sqrt(batch.variance + epsilon) / sigma, 1 / r_max, r_max)
  d = jnp.clip((batch.mean - running.mean) / sigma, -d_max, d_max)
  return lax.stop_gradient(r), lax.stop_gradient(d)


def _refuse_single_element(x: Array, spec: NormSpec, train: bool) -> None:
  elements = x.shape[-1] // spec.num_groups(x.shape[-1])
  if "S" in spec.reduce:
    for size in x.shape[1:-1]:
      elements *= size
  if "N" in spec.reduce:
    if not train or spec.source == "running" or spec.axis_names:
      return
    elements *= x.shape[0]
  if elements == 1:
    shape = "x".join(map(str, x.shape[1:]))
    raise UserError(
      f"norm {spec.name!r} would normalize single elements of a {shape} activation, which leaves "
      "nothing but zeros; use larger images (or batches), larger groups or another norm."
    )
