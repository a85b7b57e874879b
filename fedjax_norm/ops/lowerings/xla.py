"""XLA's own convolution, with the gradients that JAX derives."""

from collections.abc import Callable

import jax
from jax import lax

from fedjax_norm.ops.geometry import Geometry, Pads, Pair
from fedjax_norm.typing import Array


def plain(
  x: Array,
  kernel: Array,
  strides: Pair = (1, 1),
  pads: Pads = ((0, 0), (0, 0)),
  rhs_dilation: Pair = (1, 1),
  groups: int = 1,
) -> Array:
  """Returns ``lax.conv_general_dilated`` of [N, H, W, I] and [KH, KW, I / groups, O]."""
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    pads,
    rhs_dilation=rhs_dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def forward(geometry: Geometry, x: Array, kernel: Array) -> Array:
  """Returns the convolution."""
  return plain(x, kernel, geometry.strides, geometry.pads)


Forward = Callable[[Geometry, Array, Array], Array]
"""(geometry, x, kernel) -> the convolution"""


def input_gradient(
  geometry: Geometry, dy: Array, kernel: Array, convolve: Forward = forward
) -> Array:
  """Returns the gradient of x in a convolution, by default XLA's own."""
  shape = (len(dy), *geometry.image, kernel.shape[2])
  x = jax.ShapeDtypeStruct(shape, dy.dtype)
  return jax.linear_transpose(lambda x: convolve(geometry, x, kernel), x)(dy)[0]


def kernel_gradient(geometry: Geometry, x: Array, dy: Array, convolve: Forward = forward) -> Array:
  """Returns the gradient of the kernel in a convolution, by default XLA's own."""
  shape = (*geometry.kernel, x.shape[-1], dy.shape[-1])
  kernel = jax.ShapeDtypeStruct(shape, x.dtype)
  return jax.linear_transpose(lambda kernel: convolve(geometry, x, kernel), kernel)(dy)[0]
