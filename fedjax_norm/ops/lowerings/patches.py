"""All three convolutions as one matrix product with the patches of x, one patch for each window.

Under vmap over clients this is one batched matrix product. The patches are KH KW copies of x, which
are not kept for the gradients but made again.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_norm.ops.geometry import Geometry, pad_or_crop, sum_dtype
from fedjax_norm.typing import Array


def patches(geometry: Geometry, x: Array) -> Array:
  """Returns the windows of x as vectors: [N, H, W, I] -> [N, H', W', KH KW I]."""
  _, (kh, kw), (sh, sw), pads = geometry
  rows, columns = geometry.output
  down, right = (rows - 1) * sh + 1, (columns - 1) * sw + 1
  x = pad_or_crop(pads, x)
  shifts = [x[:, r : r + down : sh, c : c + right : sw] for r in range(kh) for c in range(kw)]
  return jnp.concatenate(shifts, -1)


def forward(geometry: Geometry, x: Array, kernel: Array) -> Array:
  """Returns the product of the patches and the kernel."""
  return patches(geometry, x) @ kernel.reshape(-1, kernel.shape[-1])


def input_gradient(geometry: Geometry, dy: Array, kernel: Array) -> Array:
  """Returns the gradient of x: the sum of the gradients of the patches, added where they lie.

  The kernel is read as it is stored; a convolution with dy would need a flipped copy of it.
  """
  columns = dy @ kernel.reshape(-1, kernel.shape[-1]).T
  # The sum of many parts is float32, also for bfloat16 products.
  x = jax.ShapeDtypeStruct((len(dy), *geometry.image, kernel.shape[2]), sum_dtype(dy))
  spread = jax.linear_transpose(functools.partial(patches, geometry), x)
  return spread(columns.astype(x.dtype))[0].astype(dy.dtype)


def kernel_gradient(geometry: Geometry, x: Array, dy: Array) -> Array:
  """Returns the gradient of the kernel: the product of the patches and dy, over all windows."""
  over_windows = (((0, 1, 2), (0, 1, 2)), ((), ()))
  dk = lax.dot_general(patches(geometry, x), dy, over_windows)
  return dk.reshape(*geometry.kernel, x.shape[-1], dy.shape[-1])
