"""One convolution for every model, lowered the way the backend runs fast.

On accelerators this is ``lax.conv_general_dilated``. XLA's CPU backend runs a convolution well
inside a loop only when it is written NHWC x HWIO -> NHWC with neither groups nor input dilation,
which JAX's own backward convolutions and the vmap of a convolution over per-client kernels are not.
On a CPU the three convolutions of a layer (forward, input gradient, kernel gradient) are therefore
written in that form by hand, and a vmap over them becomes a loop.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from fedjax_norm.typing import Array

Pads = tuple[tuple[int, int], tuple[int, int]]

# Below this number of input channels a kernel gradient is one matmul of patches (there are few of
# them), and the forward convolution reads an input padded with zero channels.
_FEW_CHANNELS = 4


def conv(
  x: Array,
  kernel: Array,
  strides: tuple[int, int] = (1, 1),
  padding: str | Pads = "SAME",
  lowering: str | None = None,
) -> Array:
  """Convolves a batch of images with a kernel.

  Args:
    x: [N, H, W, I] float.
    kernel: [KH, KW, I, O] of the same dtype.
    strides: rows, columns.
    padding: ``'SAME'``, ``'VALID'`` or ((top, bottom), (left, right)).
    lowering: ``'xla'`` (``lax.conv_general_dilated``) or ``'canonical'`` (this module's form for
      CPUs, no forward-mode derivative); None chooses by the default backend.

  Returns:
    [N, H', W', O].
  """
  if isinstance(padding, str):
    rows, columns = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    padding = ((rows[0], rows[1]), (columns[0], columns[1]))
  match lowering or ("canonical" if jax.default_backend() == "cpu" else "xla"):
    case "canonical":
      return _conv(strides, padding, x, kernel)
    case "xla":
      return _plain(x, kernel, strides, padding)
    case unknown:
      raise ValueError(f"unknown lowering {unknown!r}; choose 'canonical' or 'xla'.")


def _plain(x, kernel, strides=(1, 1), padding=((0, 0), (0, 0)), rhs_dilation=(1, 1)):
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    rhs_dilation=rhs_dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _pad_or_crop(x: Array, pads: Pads) -> Array:
  """Pads rows and columns with zeros; a negative pad crops."""
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(strides, padding, x, kernel):
  return _forward(strides, padding, x, kernel)


def _conv_fwd(strides, padding, x, kernel):
  return _forward(strides, padding, x, kernel), (x, kernel)


def _conv_bwd(strides, padding, residuals, dy):
  x, kernel = residuals
  dx = _input_gradient(strides, padding, x.shape[1:3], dy, kernel)
  return dx, _kernel_gradient(strides, padding, kernel.shape[:2], x, dy)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _forward(strides, padding, x, kernel):
  @sequential_vmap
  def run(x, kernel):
    lacking = _FEW_CHANNELS - x.shape[-1]
    if lacking > 0:
      x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, lacking)))
      kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, lacking), (0, 0)))
    return _plain(x, kernel, strides, padding)

  return run(x, kernel)


def _phase(size, out_size, kernel_size, stride, pad, r):
  """One axis of the input gradient at positions r, r + stride, r + 2 stride, ...

  From y[o] = sum_t x[stride o + t - pad] w[t], the position i = stride q + r receives
  sum_u dy[q + shift - u] w[first + stride u].

  Returns:
    (first tap, number of taps, pads of dy) such that the phase is a stride-1 convolution.
  """
  first = (r + pad) % stride
  taps = len(range(first, kernel_size, stride))
  shift = (r + pad - first) // stride
  count = -(-size // stride)  # as many positions as the longest phase has; the rest is cropped
  return first, taps, (taps - 1 - shift, count - out_size + shift)


def _input_gradient(strides, padding, size, dy, kernel):
  (sh, sw), (h, w) = strides, size

  @sequential_vmap
  def run(dy, kernel):
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    kh, kw = kernel.shape[:2]
    phases = []
    for r in range(sh):
      top, rows, row_pads = _phase(h, dy.shape[1], kh, sh, padding[0][0], r)
      for c in range(sw):
        left, columns, column_pads = _phase(w, dy.shape[2], kw, sw, padding[1][0], c)
        if rows == 0 or columns == 0:  # no tap of the kernel falls on these positions
          shape = (dy.shape[0], -(-h // sh), -(-w // sw), kernel.shape[2])
          phases.append(jnp.zeros(shape, dy.dtype))
          continue
        # taps first, first + s, ... of the kernel, in flipped order
        taps = flipped[(kh - 1 - top) % sh :: sh, (kw - 1 - left) % sw :: sw]
        pads = (row_pads, column_pads)
        if min(*row_pads, *column_pads) < 0:
          phases.append(_plain(_pad_or_crop(dy, pads), taps))
        else:
          phases.append(_plain(dy, taps, padding=pads))
    if len(phases) == 1:
      return phases[0]
    n, ph, pw, i = phases[0].shape
    grid = jnp.stack(phases).reshape(sh, sw, n, ph, pw, i).transpose(2, 3, 0, 4, 1, 5)
    return grid.reshape(n, ph * sh, pw * sw, i)[:, :h, :w]

  return run(dy, kernel)


def _kernel_gradient(strides, padding, kernel_size, x, dy):
  (sh, sw), (kh, kw) = strides, kernel_size

  @sequential_vmap
  def run(x, dy):
    n, h, w, i = x.shape
    oh, ow, o = dy.shape[1:]
    # The rows and columns of x that the kernel touches, and no others.
    pads = (
      (padding[0][0], kh + (oh - 1) * sh - h - padding[0][0]),
      (padding[1][0], kw + (ow - 1) * sw - w - padding[1][0]),
    )
    if i <= _FEW_CHANNELS or kh == kw == 1:
      x = _pad_or_crop(x, pads)
      rows, columns = (oh - 1) * sh + 1, (ow - 1) * sw + 1
      patches = [
        x[:, a : a + rows : sh, b : b + columns : sw] for a in range(kh) for b in range(kw)
      ]
      patches = jnp.concatenate(patches, axis=-1).reshape(n * oh * ow, kh * kw * i)
      return (patches.T @ dy.reshape(n * oh * ow, o)).reshape(kh, kw, i, o)
    if min(*pads[0], *pads[1]) < 0:
      x, pads = _pad_or_crop(x, pads), ((0, 0), (0, 0))
    swapped = _plain(
      x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), padding=pads, rhs_dilation=strides
    )
    return swapped.transpose(1, 2, 0, 3)

  return run(x, dy)
