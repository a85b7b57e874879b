"""The convolution of all models, in the form that is fast on the kind of device.

On accelerators this is ``lax.conv_general_dilated``. Inside a loop, XLA's CPU backend is fast only
for convolutions of the form NHWC x HWIO -> NHWC without groups and input dilation. JAX's backward
convolutions, and convolutions with one kernel per client under vmap, do not have this form. On a
CPU, the three convolutions of a layer (forward, input gradient, kernel gradient) are therefore
written in this form by hand, each as a separate function, and vmap runs them in a loop.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_norm.ops.lowering import Pads, isolated, on_cpu, pad_or_crop
from fedjax_norm.typing import Array

Pair = tuple[int, int]
"""(rows, columns)"""

# If the output's gradient dy has at least _LARGE bytes, the kernel gradient is summed over parts of
# up to _CACHED bytes.
_LARGE, _CACHED = 2**22, 2**19


def conv(
  x: Array,
  kernel: Array,
  strides: tuple[int, int] = (1, 1),
  padding: str | Pads = "SAME",
  groups: int = 1,
  lowering: str | None = None,
) -> Array:
  """Convolves a batch of images with a kernel.

  Args:
    x: [N, H, W, I] float.
    kernel: [KH, KW, I / groups, O] of the same dtype.
    strides: (rows, columns).
    padding: ``'SAME'``, ``'VALID'`` or ((top, bottom), (left, right)).
    groups: number of channel groups that are convolved separately.
    lowering: ``'xla'`` (``lax.conv_general_dilated``) or ``'canonical'`` (this module's form for
      CPUs, without forward-mode derivative); None chooses by JAX's default backend.

  Returns:
    [N, H', W', O].

  Raises:
    ValueError: the lowering is unknown, or the groups do not divide the channels.
  """
  if x.shape[-1] != groups * kernel.shape[2] or kernel.shape[3] % groups:
    raise ValueError(
      f"{groups} groups do not fit {x.shape[-1]} channels and a kernel of shape {kernel.shape}."
    )
  if isinstance(padding, str):
    rows, columns = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    padding = ((rows[0], rows[1]), (columns[0], columns[1]))
  match lowering or ("canonical" if on_cpu() else "xla"):
    case "canonical":
      parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
      return jnp.concatenate([_conv(strides, padding, *part) for part in parts], -1)
    case "xla":
      return _plain(x, kernel, strides, padding, groups=groups)
    case unknown:
      raise ValueError(f"unknown lowering {unknown!r}; choose 'canonical' or 'xla'.")


def _plain(
  x: Array,
  kernel: Array,
  strides: Pair = (1, 1),
  padding: Pads = ((0, 0), (0, 0)),
  rhs_dilation: Pair = (1, 1),
  groups: int = 1,
) -> Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    rhs_dilation=rhs_dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(strides: Pair, padding: Pads, x: Array, kernel: Array) -> Array:
  return isolated(_forward, strides, padding)(x, kernel)


def _conv_bwd(strides: Pair, padding: Pads, residuals: Any, dy: Array) -> tuple[Array, Array]:
  x, kernel = residuals
  dx = isolated(_input_gradient, strides, padding, x.shape[1:3])(dy, kernel)
  return dx, isolated(_kernel_gradient, strides, padding, kernel.shape[:2])(x, dy)


_conv.defvjp(lambda *args: (_conv(*args), args[2:]), _conv_bwd)


def _forward(strides: Pair, padding: Pads, x: Array, kernel: Array) -> Array:
  """The convolution, up to six times faster than XLA's if there are few channels.

  Several neighbouring columns of the output are folded into channels of one column: a wider kernel
  with a wider stride contains one shifted copy of the kernel for each of them.
  """
  kh, kw, i, o = kernel.shape
  if kh * kw > x.shape[1] * x.shape[2]:
    return _by_taps(strides, padding, x, kernel)
  fold = _fold(kw, i, o)
  if fold == 1:
    return _plain(x, kernel, strides, padding)
  n, _, w, _ = x.shape
  stride, left = strides[1], padding[1][0]
  columns = (w + sum(padding[1]) - kw) // stride + 1
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
  y = _plain(x, wide, (strides[0], fold * stride), (padding[0], (left, right)))
  return y.reshape(n, y.shape[1], count * fold, o)[:, :, :columns]


def _by_taps(strides: Pair, padding: Pads, x: Array, kernel: Array) -> Array:
  """A convolution as one matrix product per kernel element, for images smaller than the kernel.

  XLA would swap the kernel and the image, and run loops that are 100 times slower.
  """
  (kh, kw), (sh, sw) = kernel.shape[:2], strides
  n, h, w, _ = x.shape
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  down, right = x.shape[1] - kh + 1, x.shape[2] - kw + 1
  # The sum of many parts is float32, also for bfloat16 products.
  y = jnp.zeros((n, -(-down // sh), -(-right // sw), kernel.shape[3]), jnp.float32)
  for r in _useful_taps(kh, range(0, down, sh), padding[0][0], h):
    for c in _useful_taps(kw, range(0, right, sw), padding[1][0], w):
      y += (x[:, r : r + down : sh, c : c + right : sw] @ kernel[r, c]).astype(jnp.float32)
  return y.astype(x.dtype)


def _useful_taps(taps: int, windows: range, before: int, size: int) -> list[int]:
  """The kernel elements that overlap the image in any window, along one axis.

  For a 3x3 kernel on a single pixel, this is only the middle.
  """
  return [
    tap for tap in range(taps) if any(before <= first + tap < before + size for first in windows)
  ]


def _fold(columns: int, inputs: int, outputs: int) -> int:
  """The number of output columns to fold: up to 32 channels, according to measurements."""
  if columns == 1 or inputs > 16:
    return 1
  return max(1, min(4, (64 if inputs <= 4 else 32) // outputs))


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


def _input_gradient(strides: Pair, padding: Pads, size: Pair, dy: Array, kernel: Array) -> Array:
  """The gradient of x: at stride s, s * s convolutions of stride 1, one per phase."""
  (sh, sw), (h, w) = strides, size
  flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
  kh, kw = kernel.shape[:2]
  phases = []
  for r in range(sh):
    top, rows, row_pads = _phase(h, dy.shape[1], kh, sh, padding[0][0], r)
    for c in range(sw):
      left, columns, column_pads = _phase(w, dy.shape[2], kw, sw, padding[1][0], c)
      if rows == 0 or columns == 0:  # no kernel element reaches these positions
        shape = (dy.shape[0], -(-h // sh), -(-w // sw), kernel.shape[2])
        phases.append(jnp.zeros(shape, dy.dtype))
        continue
      # taps first, first + s, ... of the kernel, in flipped order
      taps = flipped[(kh - 1 - top) % sh :: sh, (kw - 1 - left) % sw :: sw]
      pads = (row_pads, column_pads)
      cropped = dy
      if min(*row_pads, *column_pads) < 0:
        pads, cropped = ((0, 0), (0, 0)), pad_or_crop(pads, dy)
      phases.append(_forward((1, 1), pads, cropped, taps))
  if len(phases) == 1:
    return phases[0]
  n, rows, columns, i = phases[0].shape
  grid = jnp.stack(phases).reshape(sh, sw, n, rows, columns, i).transpose(2, 3, 0, 4, 1, 5)
  return grid.reshape(n, rows * sh, columns * sw, i)[:, :h, :w]


def _kernel_gradient(strides: Pair, padding: Pads, kernel_size: Pair, x: Array, dy: Array) -> Array:
  """The gradient of the kernel: a convolution of x with dy as the kernel, summed over examples.

  Columns and input channels are merged: column w, channel i has the position w I + i. A kernel that
  is dilated by I columns then combines equal channels, and the result is [KH, KW I, O]. Only x has
  to be transposed, as a matrix.
  """
  (sh, sw), (kh, kw) = strides, kernel_size
  n, h, w, i = x.shape
  oh, ow, o = dy.shape[1:]
  # Padding, or cropping, to the rows and columns of x that the kernel reaches.
  rows = (padding[0][0], kh + (oh - 1) * sh - h - padding[0][0])
  columns = (padding[1][0], kw + (ow - 1) * sw - w - padding[1][0])
  if min(*rows, *columns) < 0:
    x, rows, columns = pad_or_crop((rows, columns), x), (0, 0), (0, 0)
    h, w = x.shape[1:3]
  by_column = x.reshape(n, h * w * i).T.reshape(1, h, w * i, n)
  dy = dy.transpose(1, 2, 0, 3)
  sideways = (columns[0] * i, columns[1] * i)

  def gradient(by_column: Array, dy: Array, rows: Pair) -> Array:
    return _plain(by_column, dy, padding=(rows, sideways), rhs_dilation=(sh, sw * i))

  count = _rows_at_once(oh, ow * n * o * dy.dtype.itemsize)
  if count == oh:
    dk = gradient(by_column, dy, rows)
  else:
    padded = jnp.pad(by_column, ((0, 0), rows, (0, 0), (0, 0)))

    def add(index: Array, dk: Array) -> Array:
      first = index * count
      part = lax.dynamic_slice_in_dim(padded, first * sh, (count - 1) * sh + kh, 1)
      return dk + gradient(part, lax.dynamic_slice_in_dim(dy, first, count, 0), (0, 0))

    # The sum of many parts is float32, also for bfloat16 products.
    dk = lax.fori_loop(0, oh // count, add, jnp.zeros((1, kh, kw * i, o), jnp.float32))
  return dk.astype(dy.dtype).reshape(kh, kw, i, o)


def _rows_at_once(rows: int, row_bytes: int) -> int:
  """The number of rows of dy per part: all of them, or as many as fit the cache if dy is large."""
  if rows * row_bytes < _LARGE:
    return rows
  fitting = (n for n in range(2, rows) if rows % n == 0 and n * row_bytes <= _CACHED)
  return max(fitting, default=1)
