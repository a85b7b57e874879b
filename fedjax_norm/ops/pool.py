"""Max and mean pools, computed from strided shifts of the input, without forward-mode derivative.

Both passes are fast under vmap and scan.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_norm.ops.batching import isolated
from fedjax_norm.ops.geometry import Pads, pad_or_crop, sum_dtype
from fedjax_norm.typing import Array


def ceil_pads(shape: tuple[int, int], size: int, stride: int) -> Pads:
  """Returns the bottom and right padding with which pool windows cover the whole image (as Caffe).

  Args:
    shape: (H, W) of the image.
    size: side of the windows.
    stride: distance between neighbouring windows.
  """

  def after(extent: int) -> int:
    # The last window must begin inside the image, even if the stride exceeds the window size.
    positions = max(min(-(-(extent - size) // stride), (extent - 1) // stride), 0) + 1
    return max((positions - 1) * stride + size - extent, 0)

  return (0, after(shape[0])), (0, after(shape[1]))


def max_pool(x: Array, size: int, stride: int, pads: Pads = ((0, 0), (0, 0))) -> Array:
  """Returns the maximum of each size x size window: [N, H, W, C] -> [N, H', W', C].

  If a window has several equal maxima, the first one in row-major order gets the gradient.
  """
  return _max_pool(size, stride, pads, x)


def avg_pool(x: Array, size: int, stride: int, pads: Pads = ((0, 0), (0, 0))) -> Array:
  """Returns each size x size window's mean without padding: [N, H, W, C] -> [N, H', W', C]."""

  def inside(extent: int, pad: tuple[int, int]) -> np.ndarray:
    real = np.pad(np.ones(extent), pad)
    return np.array(
      [real[i : i + size].sum() for i in range(0, len(real) - size + 1, stride)], np.float32
    )

  counts = np.outer(inside(x.shape[1], pads[0]), inside(x.shape[2], pads[1]))
  total = _sum_pool(size, stride, pads, x.astype(sum_dtype(x)))
  return (total / counts[None, :, :, None]).astype(x.dtype)


def _windows(x: Array, size: int, stride: int, pads: Pads, fill: float) -> list[Array]:
  """Returns size * size shifts of x; their elements at one position are the window there."""
  x = lax.pad(x, jnp.array(fill, x.dtype), [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])
  rows, columns = ((extent - size) // stride + 1 for extent in x.shape[1:3])
  if min(rows, columns) < 1:
    raise ValueError(f"windows of size {size} do not fit padded images of size {x.shape[1:3]}.")
  return [
    x[:, a : a + (rows - 1) * stride + 1 : stride, b : b + (columns - 1) * stride + 1 : stride]
    for a in range(size)
    for b in range(size)
  ]


WindowGradient = Callable[..., Array]
"""(arrays of windows, positions [stride, 1, stride, 1]) -> the gradient that the windows pass to
their elements at these positions (row-major indices within a window, -1 outside of it)."""


def _sum_over_windows(
  arrays: tuple[Array, ...],
  size: int,
  stride: int,
  pads: Pads,
  image: tuple[int, int],
  gradient: WindowGradient,
) -> Array:
  """The transpose of :func:`_windows`: sums the gradients that each element gets from its windows.

  Row stride q + r of the image is row r + stride u of window q - u, for every u, and the same holds
  for columns. The arrays [N, H', W', C] have one element per window.
  """
  rows, columns = (
    -(-(extent + sum(pad)) // stride) for extent, pad in zip(image, pads, strict=True)
  )
  n, out_rows, out_columns, channels = arrays[0].shape
  reach = -(-size // stride)  # windows that contain an element, along one axis
  around = ((reach - 1, rows - out_rows), (reach - 1, columns - out_columns))
  # If the padding were fused with its readers, they would check bounds at every element.
  padded = [isolated(pad_or_crop, around)(array) for array in arrays]
  total: Array | float = 0.0
  for u in range(reach):
    for v in range(reach):
      top, left = reach - 1 - u, reach - 1 - v
      windows = [a[:, top : top + rows, None, left : left + columns, None] for a in padded]
      row = np.arange(stride)[:, None] + stride * u
      column = np.arange(stride) + stride * v
      positions = np.where((row < size) & (column < size), row * size + column, -1)
      total += gradient(*windows, positions[:, None, :, None])
  whole = jnp.reshape(total, (n, rows * stride, columns * stride, channels))
  (top, _), (left, _) = pads
  return whole[:, top : top + image[0], left : left + image[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sum_pool(size: int, stride: int, pads: Pads, x: Array) -> Array:
  return sum(_windows(x, size, stride, pads, 0.0))


def _sum_pool_fwd(size: int, stride: int, pads: Pads, x: Array) -> tuple[Array, Any]:
  return _sum_pool(size, stride, pads, x), x.shape[1:3]


def _sum_pool_bwd(size: int, stride: int, pads: Pads, image: Any, dy: Array) -> tuple[Array]:
  dx = _sum_over_windows(
    (dy,), size, stride, pads, image, lambda dy, positions: jnp.where(positions >= 0, dy, 0)
  )
  return (dx,)


_sum_pool.defvjp(_sum_pool_fwd, _sum_pool_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _max_pool(size: int, stride: int, pads: Pads, x: Array) -> Array:
  return _max_pool_fwd(size, stride, pads, x)[0]


def _max_pool_fwd(size: int, stride: int, pads: Pads, x: Array) -> tuple[Array, Any]:
  windows = _windows(x, size, stride, pads, -jnp.inf)
  best, argmax = windows[0], jnp.zeros(windows[0].shape, jnp.int32)
  for index, window in enumerate(windows[1:], 1):
    argmax = jnp.where(window > best, jnp.int32(index), argmax)
    best = jnp.maximum(best, window)
  return best, (argmax, x.shape[1:3])


def _max_pool_bwd(size: int, stride: int, pads: Pads, residuals: Any, dy: Array) -> tuple[Array]:
  argmax, image = residuals

  def gradient(dy: Array, argmax: Array, positions: Array) -> Array:
    return jnp.where(argmax == positions, dy, 0)

  return (_sum_over_windows((dy, argmax), size, stride, pads, image, gradient),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
