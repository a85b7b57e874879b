"""The input gradient of a convolution as convolutions of stride 1 with parts of the kernel."""

import jax.numpy as jnp

from fedjax_norm.ops.geometry import Geometry, Pair, pad_or_crop
from fedjax_norm.ops.lowerings.xla import Forward
from fedjax_norm.typing import Array


def input_gradient(forward: Forward, geometry: Geometry, dy: Array, kernel: Array) -> Array:
  """Returns the gradient of x: at stride s, s * s convolutions of stride 1, one per phase."""
  (h, w), (kh, kw), (sh, sw), pads = geometry
  flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
  phases = []
  for r in range(sh):
    top, rows, row_pads = _phase(h, dy.shape[1], kh, sh, pads[0][0], r)
    for c in range(sw):
      left, columns, column_pads = _phase(w, dy.shape[2], kw, sw, pads[1][0], c)
      if rows == 0 or columns == 0:  # no kernel element reaches these positions
        shape = (dy.shape[0], -(-h // sh), -(-w // sw), kernel.shape[2])
        phases.append(jnp.zeros(shape, dy.dtype))
        continue
      # taps first, first + s, ... of the kernel, in flipped order
      taps = flipped[(kh - 1 - top) % sh :: sh, (kw - 1 - left) % sw :: sw]
      around, cropped = (row_pads, column_pads), dy
      if min(*row_pads, *column_pads) < 0:
        around, cropped = ((0, 0), (0, 0)), pad_or_crop(around, dy)
      phase = Geometry(cropped.shape[1:3], taps.shape[:2], (1, 1), around)
      phases.append(forward(phase, cropped, taps))
  if len(phases) == 1:
    return phases[0]
  n, rows, columns, i = phases[0].shape
  grid = jnp.stack(phases).reshape(sh, sw, n, rows, columns, i).transpose(2, 3, 0, 4, 1, 5)
  return grid.reshape(n, rows * sh, columns * sw, i)[:, :h, :w]


def _phase(
  size: int, out_size: int, kernel_size: int, stride: int, pad: int, r: int
) -> tuple[int, int, Pair]:
  """One axis of the input gradient at positions r, r + stride, r + 2 stride, ...

  From y[o] = sum_t x[stride o + t - pad] w[t], the position i = stride q + r receives
  sum_u dy[q + shift - u] w[first + stride u].

  Returns:
    (first tap, number of taps, padding of dy) of the phase as a stride-1 convolution.
  """
  first = (r + pad) % stride
  taps = len(range(first, kernel_size, stride))
  shift = (r + pad - first) // stride
  count = -(-size // stride)  # number of positions of the longest phase; others are cropped
  return first, taps, (taps - 1 - shift, count - out_size + shift)
