"""Forms of a convolution with which ``benchmarks.lowering`` compares those of the library.

They are functions of the geometry, x [N, H, W, I] and the kernel [KH, KW, I, O]; JAX derives their
gradients.
"""

import types
from collections.abc import Iterator

import jax.numpy as jnp

from fedjax_norm.ops.geometry import Geometry, pad_or_crop
from fedjax_norm.ops.lowerings import xla
from fedjax_norm.ops.lowerings.xla import Forward
from fedjax_norm.typing import Array


def row_patches(geometry: Geometry, x: Array, kernel: Array) -> Array:
  """One matrix product for each row of the kernel, with the patches that are one row high."""
  kw, (_, columns), stride = geometry.kernel[1], geometry.output, geometry.strides[1]
  right = (columns - 1) * stride + 1
  return sum(
    jnp.concatenate([row[:, :, c : c + right : stride] for c in range(kw)], -1)
    @ kernel[r].reshape(-1, kernel.shape[-1])
    for r, row in enumerate(_rows(geometry, x))
  )


def toeplitz(geometry: Geometry, x: Array, kernel: Array) -> Array:
  """One matrix product for each row of the kernel, which computes whole rows of the output.

  The matrix contains a shifted copy of the kernel's row for each column of the output.
  """
  (_, kw), (_, columns), (_, stride) = geometry.kernel, geometry.output, geometry.strides
  rows = list(_rows(geometry, x))
  width = rows[0].shape[2]
  shifts = range(0, columns * stride, stride)
  around = [((0, 0), (shift, width - kw - shift), (0, 0), (0, 0)) for shift in shifts]
  matrices = jnp.stack([jnp.pad(kernel, pads) for pads in around], -2)
  matrices = matrices.reshape(len(kernel), -1, columns * kernel.shape[-1])
  y = sum(
    row.reshape(*row.shape[:2], -1) @ matrix for row, matrix in zip(rows, matrices, strict=True)
  )
  return y.reshape(len(x), *geometry.output, kernel.shape[-1])


def _rows(geometry: Geometry, x: Array) -> Iterator[Array]:
  """Yields for each row of the kernel the rows of the padded x that it meets."""
  stride = geometry.strides[0]
  below = (geometry.output[0] - 1) * stride + 1
  x = pad_or_crop(geometry.pads, x)
  return (x[:, r : r + below : stride] for r in range(geometry.kernel[0]))


def _form(forward: Forward) -> types.SimpleNamespace:
  """Returns a form with the functions of those in ``fedjax_norm.ops.lowerings``."""

  def input_gradient(geometry: Geometry, dy: Array, kernel: Array) -> Array:
    return xla.input_gradient(geometry, dy, kernel, forward)

  def kernel_gradient(geometry: Geometry, x: Array, dy: Array) -> Array:
    return xla.kernel_gradient(geometry, x, dy, forward)

  return types.SimpleNamespace(
    forward=forward, input_gradient=input_gradient, kernel_gradient=kernel_gradient
  )


OTHERS = {function.__name__: _form(function) for function in (row_patches, toeplitz)}
"""{name: form}"""
