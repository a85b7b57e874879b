"""All three convolutions in the one form that XLA's CPU backend runs fast within a loop.

This form is NHWC x HWIO -> NHWC without groups and input dilation, which JAX's backward
convolutions do not have.
"""

import jax.numpy as jnp

from fedjax_norm.ops.geometry import Geometry, pad_or_crop
from fedjax_norm.ops.lowerings import phases, taps
from fedjax_norm.ops.lowerings.xla import plain
from fedjax_norm.typing import Array


def forward(geometry: Geometry, x: Array, kernel: Array) -> Array:
  """The convolution, up to six times faster than XLA's if there are few channels.

  Several neighbouring columns of the output are folded into channels of one column: a wider kernel
  with a wider stride contains one shifted copy of the kernel for each of them.
  """
  strides, pads = geometry.strides, geometry.pads
  kh, kw, i, o = kernel.shape
  if kh * kw > x.shape[1] * x.shape[2]:
    # XLA would swap the kernel and the image, and run loops that are 100 times slower.
    return taps.forward(geometry, x, kernel)
  fold = _fold(kw, i, o)
  if fold == 1:
    return plain(x, kernel, strides, pads)
  n, _, w, _ = x.shape
  stride, left = strides[1], pads[1][0]
  columns = geometry.output[1]
  count = -(-columns // fold)
  width = kw + (fold - 1) * stride
  right = (count - 1) * fold * stride + width - w - left
  copies = [
    jnp.pad(kernel, ((0, 0), (shift, width - kw - shift), (0, 0), (0, 0)))
    for shift in range(0, fold * stride, stride)
  ]
  wide = jnp.stack(copies, -2).reshape(kh, width, i, fold * o)
  if right < 0:  # no window reaches the last columns
    x, right = x[:, :, :right], 0
  y = plain(x, wide, (strides[0], fold * stride), (pads[0], (left, right)))
  return y.reshape(n, y.shape[1], count * fold, o)[:, :, :columns]


def _fold(columns: int, inputs: int, outputs: int) -> int:
  """The number of output columns to fold: up to 64 channels, according to measurements."""
  if columns == 1 or inputs > 16:
    return 1
  return max(1, min(4 if inputs == 1 else 8, (64 if inputs <= 4 else 32) // outputs))


def input_gradient(geometry: Geometry, dy: Array, kernel: Array) -> Array:
  """The gradient of x, by forward convolutions of this form."""
  return phases.input_gradient(forward, geometry, dy, kernel)


def kernel_gradient(geometry: Geometry, x: Array, dy: Array) -> Array:
  """The gradient of the kernel: a convolution of x with dy as the kernel, summed over examples.

  Columns and input channels are merged: column w, channel i has the position w I + i. A kernel that
  is dilated by I columns then combines equal channels, and the result is [KH, KW I, O]. Only x has
  to be transposed, as a matrix.
  """
  _, (kh, kw), (sh, sw), pads = geometry
  n, h, w, i = x.shape
  oh, ow, o = dy.shape[1:]
  # Padding, or cropping, to the rows and columns of x that the kernel reaches.
  rows = (pads[0][0], kh + (oh - 1) * sh - h - pads[0][0])
  columns = (pads[1][0], kw + (ow - 1) * sw - w - pads[1][0])
  if min(*rows, *columns) < 0:
    x, rows, columns = pad_or_crop((rows, columns), x), (0, 0), (0, 0)
    h, w = x.shape[1:3]
  by_column = x.reshape(n, h * w * i).T.reshape(1, h, w * i, n)
  dy = dy.transpose(1, 2, 0, 3)
  sideways = (columns[0] * i, columns[1] * i)

  dk = plain(by_column, dy, pads=(rows, sideways), rhs_dilation=(sh, sw * i))
  return dk.reshape(kh, kw, i, o)
