"""The kernel gradient on a CPU as matrix products with windows of x, a block after another.

A window holds the inputs of ``fold`` neighbouring columns of the output. It is wider than the
kernel, so that few input channels are read in longer runs, and products of more rows fill the
registers of the processor. The windows of a block of images, or of rows of an image, fit the cache,
and nothing has to be transposed. The other two parts are those of ``canonical``.
"""

import jax.numpy as jnp
from jax import lax

from fedjax_norm.ops.geometry import Geometry, pad_or_crop, sum_dtype
from fedjax_norm.ops.lowerings.canonical import forward, input_gradient
from fedjax_norm.typing import Array

__all__ = ["forward", "input_gradient", "kernel_gradient"]

_CACHED = 2**21  # bytes of the windows of a block


def kernel_gradient(geometry: Geometry, x: Array, dy: Array) -> Array:
  """The gradient of the kernel: products of dy and windows of x, summed over the blocks."""
  (kh, kw), (sh, sw), pads = geometry[1:]
  n, h, w, i = x.shape
  oh, ow, o = dy.shape[1:]
  if not n:
    return jnp.zeros((kh, kw, i, o), x.dtype)
  fold = min(ow, _fold(kw, i))
  step, width = fold * sw, kw + (fold - 1) * sw
  count, pieces = -(-ow // fold), -(-width // step)  # windows in a row; steps in a window
  steps = count + pieces - 1
  around = (oh - 1) * sh + kh - h - pads[0][0], steps * step - w - pads[1][0]
  x = pad_or_crop(((pads[0][0], around[0]), (pads[1][0], around[1])), x)
  x = x.reshape(n, x.shape[1], steps, step * i)
  dy = jnp.pad(dy, ((0, 0), (0, 0), (0, count * fold - ow), (0, 0)))
  dy = dy.reshape(n, oh, count, fold * o)

  fitting = _CACHED // (count * kh * width * i * x.dtype.itemsize)
  rows = largest_part(oh, fitting)
  images = largest_part(n, fitting // oh)

  def add(index: Array, dk: Array) -> Array:
    image, row = index // (oh // rows) * images, index % (oh // rows) * rows
    below = (rows - 1) * sh + 1
    x_size, dy_size = (images, below + kh - 1, *x.shape[2:]), (images, rows, *dy.shape[2:])
    part = lax.dynamic_slice(x, (image, row * sh, 0, 0), x_size)
    windows = [
      part[:, r : r + below : sh, first : first + count, : (width - first * step) * i]
      for r in range(kh)
      for first in range(pieces)
    ]
    matrix = jnp.concatenate(windows, -1).reshape(-1, kh * width * i)
    dy_part = lax.dynamic_slice(dy, (image, row, 0, 0), dy_size).reshape(-1, fold * o)
    # This order of the two is a third faster than the other one.
    over_windows = (((0,), (0,)), ((), ()))
    return dk + lax.dot_general(dy_part, matrix, over_windows, preferred_element_type=dk.dtype)

  # The sum of many parts is float32, also for bfloat16 products.
  dk = jnp.zeros((fold * o, kh * width * i), sum_dtype(x))
  dk = lax.fori_loop(0, n // images * (oh // rows), add, dk)
  by_column = dk.T.reshape(kh, width, i, fold, o)
  columns = [by_column[:, f * sw : f * sw + kw, :, f] for f in range(fold)]
  return sum(columns[1:], columns[0]).astype(dy.dtype)


def _fold(columns: int, inputs: int) -> int:
  """The columns of the output in a window, by the columns of the kernel, from measurements."""
  return max(1, min(4, columns - 1)) if inputs <= 4 else 1


def largest_part(whole: int, limit: int) -> int:
  """Returns the largest divisor of a number up to a limit, at least 1."""
  return max(part for part in range(1, max(1, min(whole, limit)) + 1) if whole % part == 0)
