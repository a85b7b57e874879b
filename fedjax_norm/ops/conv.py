"""The convolution of all models, in the form that is fast on the kind of device.

JAX's own convolution is slow in two places: inside loops on a CPU, and under vmap over clients with
a kernel each. A convolution is therefore taken apart into three functions (forward, input gradient,
kernel gradient), and each runs in the form that the table in ``rules.py`` names for its shapes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_norm.ops.batching import default_platform, run
from fedjax_norm.ops.geometry import Geometry, Pads, explicit_pads
from fedjax_norm.ops.lowerings import FORMS, xla
from fedjax_norm.typing import Array


def conv(
  x: Array,
  kernel: Array,
  strides: tuple[int, int] = (1, 1),
  padding: str | Pads = "SAME",
  groups: int = 1,
  lowering: str | None = None,
  platform: str | None = None,
) -> Array:
  """Convolves a batch of images with a kernel.

  Args:
    x: [N, H, W, I] float.
    kernel: [KH, KW, I / groups, O] of the same dtype.
    strides: (rows, columns).
    padding: ``'SAME'``, ``'VALID'`` or ((top, bottom), (left, right)).
    groups: number of channel groups that are convolved separately.
    lowering: name of one form for all three parts; None chooses by the shapes. ``'xla'`` is
      ``lax.conv_general_dilated`` itself, which alone has a forward-mode derivative.
    platform: ``'cpu'``, ``'gpu'`` or another accelerator; None for JAX's default backend.

  Returns:
    [N, H', W', O].

  Raises:
    ValueError: the lowering is unknown, or the groups do not divide the channels.
  """
  if x.shape[-1] != groups * kernel.shape[2] or kernel.shape[3] % groups:
    raise ValueError(
      f"{groups} groups do not fit {x.shape[-1]} channels and a kernel of shape {kernel.shape}."
    )
  if lowering not in (None, *FORMS):
    raise ValueError(f"unknown lowering {lowering!r}; choose among {', '.join(FORMS)}.")
  image, taps = x.shape[1:3], kernel.shape[:2]
  geometry = Geometry(image, taps, strides, explicit_pads(image, taps, strides, padding))
  platform = platform or default_platform()
  if lowering == "xla" or (groups > 1 and platform != "cpu"):
    return xla.plain(x, kernel, strides, geometry.pads, groups=groups)
  if groups == 1:
    return _conv(platform, lowering, geometry, x, kernel)
  parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
  return jnp.concatenate([_conv(platform, lowering, geometry, *part) for part in parts], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _conv(
  platform: str, lowering: str | None, geometry: Geometry, x: Array, kernel: Array
) -> Array:
  return run("forward", platform, lowering, geometry, x, kernel)


def _conv_bwd(
  platform: str, lowering: str | None, geometry: Geometry, residuals: Any, dy: Array
) -> tuple[Array, Array]:
  x, kernel = residuals
  dx = run("input_gradient", platform, lowering, geometry, dy, kernel)
  return dx, run("kernel_gradient", platform, lowering, geometry, x, dy)


_conv.defvjp(lambda *args: (_conv(*args), args[3:]), _conv_bwd)
