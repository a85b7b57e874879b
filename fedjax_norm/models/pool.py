"""Pooling as strided shifts of the input: fast under vmap and scan, forwards and backwards."""

from collections.abc import Callable
from functools import reduce

import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_norm.models.conv import Pads
from fedjax_norm.typing import Array


def _windows(x: Array, size: int, stride: int, pads: Pads, fill: float) -> list[Array]:
  """The size * size shifts of x whose elements at one position are one window."""
  x = lax.pad(x, jnp.array(fill, x.dtype), [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])
  rows, columns = ((extent - size) // stride + 1 for extent in x.shape[1:3])
  return [
    x[:, a : a + (rows - 1) * stride + 1 : stride, b : b + (columns - 1) * stride + 1 : stride]
    for a in range(size)
    for b in range(size)
  ]


def ceil_pads(shape: tuple[int, int], size: int, stride: int) -> Pads:
  """Pads after the last row and column, so that windows cover all of the image (Caffe's rule)."""

  def after(extent: int) -> int:
    # The last window begins inside the image, also where the stride exceeds the size.
    positions = max(min(-(-(extent - size) // stride), (extent - 1) // stride), 0) + 1
    return max((positions - 1) * stride + size - extent, 0)

  return (0, after(shape[0])), (0, after(shape[1]))


def max_pool(x: Array, size: int, stride: int, pads: Pads = ((0, 0), (0, 0))) -> Array:
  """The maximum of each window: [N, H, W, C] -> [N, H', W', C]."""
  maximum: Callable[[Array, Array], Array] = jnp.maximum
  return reduce(maximum, _windows(x, size, stride, pads, -jnp.inf))


def avg_pool(x: Array, size: int, stride: int, pads: Pads = ((0, 0), (0, 0))) -> Array:
  """The mean of each window's elements inside the image: [N, H, W, C] -> [N, H', W', C]."""
  total = sum(_windows(x, size, stride, pads, 0.0))

  def inside(extent: int, pad: tuple[int, int]) -> np.ndarray:
    real = np.pad(np.ones(extent), pad)
    return np.array(
      [real[i : i + size].sum() for i in range(0, len(real) - size + 1, stride)], np.float32
    )

  counts = np.outer(inside(x.shape[1], pads[0]), inside(x.shape[2], pads[1]))
  return total / counts[None, :, :, None].astype(x.dtype)
