"""A convolution as one matrix product for each kernel element; JAX derives the gradients."""

import jax.numpy as jnp

from fedjax_norm.ops.geometry import Geometry, pad_or_crop, sum_dtype
from fedjax_norm.ops.lowerings import xla
from fedjax_norm.typing import Array


def forward(geometry: Geometry, x: Array, kernel: Array) -> Array:
  """Returns the sum of the products; elements that meet only padding have none."""
  (h, w), (kh, kw), (sh, sw), pads = geometry
  x = pad_or_crop(pads, x)
  down, right = x.shape[1] - kh + 1, x.shape[2] - kw + 1
  # The sum of many parts is float32, also for bfloat16 products.
  y = jnp.zeros((len(x), *geometry.output, kernel.shape[3]), sum_dtype(x))
  for r in _useful(kh, range(0, down, sh), pads[0][0], h):
    for c in _useful(kw, range(0, right, sw), pads[1][0], w):
      y += (x[:, r : r + down : sh, c : c + right : sw] @ kernel[r, c]).astype(y.dtype)
  return y.astype(x.dtype)


def input_gradient(geometry: Geometry, dy: Array, kernel: Array) -> Array:
  """Returns the gradient of x."""
  return xla.input_gradient(geometry, dy, kernel, forward)


def kernel_gradient(geometry: Geometry, x: Array, dy: Array) -> Array:
  """Returns the gradient of the kernel."""
  return xla.kernel_gradient(geometry, x, dy, forward)


def _useful(taps: int, windows: range, before: int, size: int) -> list[int]:
  """The kernel elements that overlap the image in any window, along one axis.

  For a 3x3 kernel on a single pixel, this is only the middle.
  """
  return [
    tap for tap in range(taps) if any(before <= first + tap < before + size for first in windows)
  ]
