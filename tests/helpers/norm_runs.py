"""Runs of norm layers, and batch (re)normalization by hand to compare them with."""

import functools

import jax
import numpy as np
from helpers.norm_rows import EPSILON

from fedjax_norm.norm import Mode, Norm, NormSpec

SHAPE = (6, 2, 3, 4)
SHAPES = [(5, 4), SHAPE, (2, 2, 3, 2, 4)]
REAL = np.array([0, 1, 1, 0, 1, 0], bool)  # the examples that are not padding


def arrays(shape, seed=0):
  """Returns random (x, dy, gamma, beta, running mean, running var), one group per channel."""
  rng = np.random.default_rng(seed)
  x = (1.5 + 2 * rng.standard_normal(shape)).astype(np.float32)
  dy = rng.standard_normal(shape).astype(np.float32)
  channels = rng.standard_normal((3, shape[-1])).astype(np.float32)
  return x, dy, 1 + channels[0] / 2, channels[1], channels[2], np.exp(2 * channels[0])


def arrays_of(spec: NormSpec, shape=SHAPE):
  """Returns the same arrays, with running statistics for the groups of the spec."""
  *others, mean, var = arrays(shape)
  groups = spec.num_groups(shape[-1])
  return *others, mean[:groups], var[:groups]


def by_channel(values, channels=SHAPE[-1]):
  """[G] -> [C]."""
  return np.repeat(values, channels // len(values))


def variables(spec: NormSpec, gamma, beta, mean=None, var=None) -> dict:
  params = {"scale": gamma, "bias": beta} if spec.scale else {"bias": beta}
  if mean is None:
    return {"params": params}
  return {
    "params": params,
    "batch_stats": {"mean": mean, "var": var} if spec.scale else {"mean": mean},
  }


@functools.partial(jax.jit, static_argnames=("spec", "train", "mutable"))
def _run(spec, train, mutable, x, dy, start, mask, step):
  def loss(x, params):
    mode = Mode(train=train, mask=mask, step=step)
    y, changed = Norm(spec).apply({**start, "params": params}, x, mode, mutable=list(mutable))
    return (y * dy).sum(), (y, changed)

  return jax.grad(loss, (0, 1), has_aux=True)(x, start["params"])


def run(
  spec, x, dy, start, *, train=True, mutable=("batch_stats", "moments"), mask=None, step=None
):
  """Returns (y, gradients of sum(y dy) for (x, params), changed collections)."""
  grads, (y, changed) = _run(spec, train, mutable, x, dy, start, mask, step)
  return y, grads, changed


def by_hand(x, dy, gamma, beta, mean, var, *, scale=True, bounds=(1.0, 0.0), decay=0.9):
  """Computes batch (re)normalization in float64, with one group per running mean.

  Returns:
    (y, (dx, dgamma, dbeta), (running mean, running var), (r, d) before clipping).
  """
  x, dy, gamma, mean, var = (np.asarray(a, np.float64) for a in (x, dy, gamma, mean, var))
  channels = x.shape[-1]

  def grouped(a):
    return a.reshape(-1, len(mean), channels // len(mean)).swapaxes(1, 2).reshape(-1, len(mean))

  def per_channel(values):
    return by_channel(values, channels)

  axes = tuple(range(x.ndim - 1))
  batch_mean, unbiased = grouped(x).mean(0), grouped(x).var(0, ddof=1)
  after = (decay * mean + (1 - decay) * batch_mean, decay * var + (1 - decay) * unbiased)
  centred = x - per_channel(batch_mean)
  if not scale:
    dx = dy - per_channel(grouped(dy).mean(0))
    return centred + beta, (dx, None, dy.sum(axes)), after, None
  sigma, sigma_running = np.sqrt(grouped(x).var(0) + EPSILON), np.sqrt(var + EPSILON)
  unclipped = sigma / sigma_running, (batch_mean - mean) / sigma_running
  r = per_channel(np.clip(unclipped[0], 1 / bounds[0], bounds[0]))
  d = per_channel(np.clip(unclipped[1], -bounds[1], bounds[1]))
  xhat = centred / per_channel(sigma)
  # r and d are constants for the gradient
  g = dy * gamma * r
  means = per_channel(grouped(g).mean(0)), per_channel(grouped(g * xhat).mean(0))
  dx = (g - means[0] - xhat * means[1]) / per_channel(sigma)
  corrected = xhat * r + d
  return gamma * corrected + beta, (dx, (dy * corrected).sum(axes), dy.sum(axes)), after, unclipped


def assert_close(actual, expected, tolerance=2e-5):
  expected = np.asarray(expected)
  scale = max(1.0, np.abs(expected).max(initial=0.0))
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)


def assert_batch_norm(result, expected, real=slice(None)):
  """Compares :func:`run` on the examples ``real`` with :func:`by_hand`."""
  y, (dx, params), changed = result
  y_expected, (dx_expected, dgamma, dbeta), (mean, var), _ = expected
  assert_close(y[real], y_expected)
  assert_close(dx[real], dx_expected)
  assert_close(params["bias"], dbeta)
  assert_close(changed["batch_stats"]["mean"], mean)
  if dgamma is None:
    assert set(params) == {"bias"}
    assert set(changed["batch_stats"]) == {"mean"}
  else:
    assert_close(params["scale"], dgamma)
    assert_close(changed["batch_stats"]["var"], var)
