"""The geometry of a convolution: all of its sizes but the batch and the channels."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from fedjax_norm.typing import Array

Pair = tuple[int, int]
"""(rows, columns)"""

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Padding of an image: (top, bottom), (left, right); negative padding crops."""


class Geometry(NamedTuple):
  """The sizes of a convolution along rows and columns.

  Attributes:
    image: size of the input.
    kernel: size of the kernel.
    strides: distance between neighbouring windows.
    pads: padding of the input.
  """

  image: Pair
  kernel: Pair
  strides: Pair = (1, 1)
  pads: Pads = ((0, 0), (0, 0))

  @property
  def output(self) -> Pair:
    """Size of the output."""
    rows, columns = (
      (size + sum(pad) - taps) // stride + 1 for size, taps, stride, pad in zip(*self, strict=True)
    )
    return rows, columns


def explicit_pads(image: Pair, kernel: Pair, strides: Pair, padding: str | Pads) -> Pads:
  """Returns the padding that ``'SAME'`` or ``'VALID'`` stands for; others are returned as given."""
  if not isinstance(padding, str):
    return padding
  rows, columns = lax.padtype_to_pads(image, kernel, strides, padding)
  return (rows[0], rows[1]), (columns[0], columns[1])


def pad_or_crop(pads: Pads, x: Array) -> Array:
  """Pads the rows and columns of [N, H, W, C] with zeros; negative pads crop."""
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])


def sum_dtype(x: Array) -> jnp.dtype:
  """Returns the dtype for sums of many products of arrays like x: at least float32."""
  return jnp.promote_types(x.dtype, jnp.float32)
