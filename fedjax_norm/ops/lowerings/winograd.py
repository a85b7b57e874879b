"""3x3 convolutions of stride 1 with 4 multiplications for each output instead of 9.

Winograd's F(2x2, 3x3) computes 2x2 outputs from 4x4 inputs:

  y = A^T [(G k G^T) * (B^T x B)] A,

where * multiplies each of the 16 positions. Over all channels these are 16 matrix products. The
input gradient is a convolution too, and the kernel gradient is the transposed map. The rounding
error is of the size of the other forms': 2e-7 to 7e-7 with 64 to 512 channels, theirs up to 4e-7.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016
(arXiv 1509.09308). Convolutions of another kind take the canonical form.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_norm.ops.geometry import Geometry, pad_or_crop, sum_dtype
from fedjax_norm.ops.lowerings import canonical
from fedjax_norm.ops.lowerings.windows import largest_part
from fedjax_norm.typing import Array

_A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])
_B = np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_GG = np.kron(_G, _G)  # of a kernel as a vector: 16 x 9

_CACHED = 2**21  # bytes of a block's transformed inputs

Grid = Sequence[Sequence[Array]]
"""Arrays of one shape for each row and column of a tile."""


def applies(geometry: Geometry) -> bool:
  """Whether this form can compute a convolution."""
  return geometry.kernel == (3, 3) and geometry.strides == (1, 1)


def forward(geometry: Geometry, x: Array, kernel: Array) -> Array:
  """The convolution: products of tiles of x and the kernel, over its input channels."""
  if not applies(geometry) or not len(x):
    return canonical.forward(geometry, x, kernel)
  return _products(geometry, x, kernel, _GG, 1)


def input_gradient(geometry: Geometry, dy: Array, kernel: Array) -> Array:
  """The gradient of x: a convolution of dy with the flipped kernel, over its output channels."""
  if not applies(geometry) or not len(dy):
    return canonical.input_gradient(geometry, dy, kernel)
  (top, bottom), (left, right) = geometry.pads
  pads = (2 - top, 2 - bottom), (2 - left, 2 - right)
  return _products(Geometry(geometry.output, (3, 3), (1, 1), pads), dy, kernel, _GG[:, ::-1], 2)


def _products(
  geometry: Geometry, x: Array, kernel: Array, transform: np.ndarray, axis: int
) -> Array:
  """Returns a convolution, which sums over an axis (1 or 2) of the transformed kernel [16, I, O].

  A block of images is computed after another, so that their tiles stay in the cache.
  """
  dtype = sum_dtype(x)
  kernels = transform.astype(dtype) @ kernel.reshape(9, -1).astype(dtype)
  kernels = kernels.reshape(16, *kernel.shape[2:])

  def block(x: Array) -> Array:
    tiles = _tiles(x)
    over_channels = (((2,), (axis,)), ((0,), (0,)))
    y = lax.dot_general(tiles.reshape(16, -1, tiles.shape[-1]), kernels, over_channels)
    (a, b), (c, d) = _transform(_A.T, y.reshape(4, 4, *tiles.shape[1:-1], -1))
    y = jnp.stack([jnp.stack([a, b], 3), jnp.stack([c, d], 3)], 2)
    return y.reshape(len(x), x.shape[1] - 2, x.shape[2] - 2, -1)

  x = _whole_tiles(geometry, x)
  blocks = x.reshape(-1, _block_size(x, kernels), *x.shape[1:])
  y = lax.map(block, blocks) if len(blocks) > 1 else block(x)
  rows, columns = geometry.output
  return y.reshape(len(x), *y.shape[-3:])[:, :rows, :columns].astype(kernel.dtype)


def kernel_gradient(geometry: Geometry, x: Array, dy: Array) -> Array:
  """The gradient of the kernel, summed over blocks of images."""
  if not applies(geometry) or not len(x):
    return canonical.kernel_gradient(geometry, x, dy)
  x = _whole_tiles(geometry, x)
  i, o = x.shape[-1], dy.shape[-1]
  around = [(0, size - 2 - used) for size, used in zip(x.shape[1:3], dy.shape[1:3], strict=True)]
  dy = jnp.pad(dy, ((0, 0), *around, (0, 0)))
  dkernels = jnp.zeros((16, i, o), x.dtype)
  size = _block_size(x, dkernels)

  def add(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
    x, dy = block
    spread = [[dy[:, r::2, c::2].astype(x.dtype) for c in range(2)] for r in range(2)]
    dy_tiles = _stack(_transform(_A, spread)).reshape(16, -1, o)
    over_tiles = (((1,), (1,)), ((0,), (0,)))
    return total + lax.dot_general(_tiles(x).reshape(16, -1, i), dy_tiles, over_tiles), None

  blocks = x.reshape(-1, size, *x.shape[1:]), dy.reshape(-1, size, *dy.shape[1:])
  dkernels, _ = lax.scan(add, dkernels, blocks) if size < len(x) else add(dkernels, (x, dy))
  dk = _GG.T.astype(x.dtype) @ dkernels.reshape(16, i * o)
  return dk.reshape(3, 3, i, o).astype(dy.dtype)


def _whole_tiles(geometry: Geometry, x: Array) -> Array:
  """Pads x, and to an even number of rows and columns of the output; at least float32."""
  around = [
    (pad[0], outputs + outputs % 2 + 2 - size - pad[0])
    for size, outputs, pad in zip(geometry.image, geometry.output, geometry.pads, strict=True)
  ]
  return pad_or_crop((around[0], around[1]), x).astype(sum_dtype(x))


def _tiles(x: Array) -> Array:
  """Returns B^T x B of each 4x4 tile of x: [N, H + 2, W + 2, I] -> [16, N, H / 2, W / 2, I]."""
  h, w = x.shape[1] - 2, x.shape[2] - 2
  tiles = [[x[:, r : r + h : 2, c : c + w : 2] for c in range(4)] for r in range(4)]
  return _stack(_transform(_B.T, tiles))


def _stack(grid: Grid) -> Array:
  return jnp.stack([array for row in grid for array in row])


def _transform(matrix: np.ndarray, grid: Grid | Array) -> Grid:
  """Returns matrix @ grid @ matrix^T."""
  rows = [_combine(matrix, column) for column in zip(*grid, strict=True)]
  return [_combine(matrix, row) for row in zip(*rows, strict=True)]


def _combine(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
  """Returns the product of a matrix of 0, 1 and -1 and a vector of arrays, by additions."""
  signed = [
    [float(sign) * array for sign, array in zip(row, arrays, strict=True) if sign] for row in matrix
  ]
  return [sum(terms[1:], terms[0]) for terms in signed]


def _block_size(x: Array, kernels: Array) -> int:
  """Returns the number of images whose tiles fit the cache, or take twice the kernels' bytes.

  As each block reads all kernels, large ones take more images.
  """
  tiles = 4 * x[0].size * x.dtype.itemsize
  return largest_part(len(x), max(_CACHED, 2 * kernels.size * kernels.dtype.itemsize) // tiles)
