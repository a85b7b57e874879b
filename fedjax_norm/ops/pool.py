"""Pooling as strided shifts of the input: fast under vmap and scan, forwards and backwards.

There is no forward-mode derivative.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_norm.ops.lowering import Pads, apart, pad_or_crop
from fedjax_norm.typing import Array


def ceil_pads(shape: tuple[int, int], size: int, stride: int) -> Pads:
  """Pads after the last row and column, so that windows cover all of the image (Caffe's rule)."""

  def after(extent: int) -> int:
    # The last window begins inside the image, also where the stride exceeds the size.
    positions = max(min(-(-(extent - size) // stride), (extent - 1) // stride), 0) + 1
    return max((positions - 1) * stride + size - extent, 0)

  return (0, after(shape[0])), (0, after(shape[1]))


def max_pool(x: Array, size: int, stride: int, pads: Pads = ((0, 0), (0, 0))) -> Array:
  """The maximum of each window: [N, H, W, C] -> [N, H', W', C].

  The gradient goes to the first of several equal maxima, row by row.
  """
  return _max_pool(size, stride, pads, x)


def avg_pool(x: Array, size: int, stride: int, pads: Pads = ((0, 0), (0, 0))) -> Array:
  """The mean of each window's elements inside the image: [N, H, W, C] -> [N, H', W', C]."""

  def inside(extent: int, pad: tuple[int, int]) -> np.ndarray:
    real = np.pad(np.ones(extent), pad)
    return np.array(
      [real[i : i + size].sum() for i in range(0, len(real) - size + 1, stride)], np.float32
    )

  counts = np.outer(inside(x.shape[1], pads[0]), inside(x.shape[2], pads[1]))
  total = _sum_pool(size, stride, pads, x.astype(jnp.float32))
  return (total / counts[None, :, :, None]).astype(x.dtype)


def _windows(x: Array, size: int, stride: int, pads: Pads, fill: float) -> list[Array]:
  """The size * size shifts of x whose elements at one position are one window."""
  x = lax.pad(x, jnp.array(fill, x.dtype), [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])
  rows, columns = ((extent - size) // stride + 1 for extent in x.shape[1:3])
  return [
    x[:, a : a + (rows - 1) * stride + 1 : stride, b : b + (columns - 1) * stride + 1 : stride]
    for a in range(size)
    for b in range(size)
  ]


Take = Callable[..., Array]
"""(arrays of windows, places [stride, 1, stride, 1]) -> what elements at those places get of them;
the place is -1 where there is none."""


def _receive(
  arrays: tuple[Array, ...], size: int, stride: int, pads: Pads, image: tuple[int, int], take: Take
) -> Array:
  """The transpose of :func:`_windows`: every element adds up what the windows over it give.

  Row stride q + r of the image is row r + stride u of window q - u, for every u; columns likewise.
  The arrays [N, H', W', C] are what is known of the windows, and ``take`` what an element gets.
  """
  rows, columns = (
    -(-(extent + sum(pad)) // stride) for extent, pad in zip(image, pads, strict=True)
  )
  n, out_rows, out_columns, channels = arrays[0].shape
  reach = -(-size // stride)  # windows over one element, along a side
  around = ((reach - 1, rows - out_rows), (reach - 1, columns - out_columns))
  # A pad fused into what reads it would check its bounds at every element.
  padded = [apart(pad_or_crop, around)(array) for array in arrays]
  total: Array | float = 0.0
  for u in range(reach):
    for v in range(reach):
      top, left = reach - 1 - u, reach - 1 - v
      own = [a[:, top : top + rows, None, left : left + columns, None] for a in padded]
      row = np.arange(stride)[:, None] + stride * u
      column = np.arange(stride) + stride * v
      places = np.where((row < size) & (column < size), row * size + column, -1)
      total += take(*own, places[:, None, :, None])
  whole = jnp.reshape(total, (n, rows * stride, columns * stride, channels))
  (top, _), (left, _) = pads
  return whole[:, top : top + image[0], left : left + image[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sum_pool(size, stride, pads, x):
  return sum(_windows(x, size, stride, pads, 0.0))


def _sum_pool_fwd(size, stride, pads, x):
  return _sum_pool(size, stride, pads, x), x.shape[1:3]


def _sum_pool_bwd(size, stride, pads, image, dy):
  def take(dy, places):
    return jnp.where(places >= 0, dy, 0)

  return (_receive((dy,), size, stride, pads, image, take),)


_sum_pool.defvjp(_sum_pool_fwd, _sum_pool_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _max_pool(size, stride, pads, x):
  return _max_pool_fwd(size, stride, pads, x)[0]


def _max_pool_fwd(size, stride, pads, x):
  windows = _windows(x, size, stride, pads, -jnp.inf)
  best, which = windows[0], jnp.zeros(windows[0].shape, jnp.int32)
  for index, window in enumerate(windows[1:], 1):
    which = jnp.where(window > best, jnp.int32(index), which)
    best = jnp.maximum(best, window)
  return best, (which, x.shape[1:3])


def _max_pool_bwd(size, stride, pads, residuals, dy):
  which, image = residuals

  def take(dy, which, places):
    return jnp.where(which == places, dy, 0)

  return (_receive((dy, which), size, stride, pads, image, take),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
