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
from fedjax_norm.ops.rules import Part
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
      ``lax.conv_general_dilated`` itself, which alone has a forward-mode derivative; all have
      second derivatives in reverse mode.
    platform: ``'cpu'``, ``'gpu'`` or another accelerator; None for JAX's default backend.

  Returns:
    [N, H', W', O].

  Raises:
    ValueError: the lowering is unknown, the groups do not divide the channels, or the kernel is
      larger than the padded images.
  """
  if x.shape[-1] != groups * kernel.shape[2] or kernel.shape[3] % groups:
    raise ValueError(
      f"{groups} groups do not fit {x.shape[-1]} channels and a kernel of shape {kernel.shape}."
    )
  if lowering not in (None, *FORMS):
    raise ValueError(f"unknown lowering {lowering!r}; choose among {', '.join(FORMS)}.")
  image, taps = x.shape[1:3], kernel.shape[:2]
  geometry = Geometry(image, taps, strides, explicit_pads(image, taps, strides, padding))
  if min(geometry.output) < 1:
    raise ValueError(f"a kernel of size {taps} does not fit images of size {image}, padded.")
  platform = platform or default_platform()
  if lowering == "xla" or (groups > 1 and platform != "cpu"):
    return xla.plain(x, kernel, strides, geometry.pads, groups=groups)
  if groups == 1:
    return _part(platform, lowering, geometry, "forward", x, kernel)
  pairs = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
  run_group = functools.partial(_part, platform, lowering, geometry, "forward")
  return jnp.concatenate([run_group(*pair) for pair in pairs], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _part(
  platform: str, lowering: str | None, geometry: Geometry, part: Part, first: Array, second: Array
) -> Array:
  return run(part, platform, lowering, geometry, first, second)


def _part_bwd(
  platform: str, lowering: str | None, geometry: Geometry, part: Part, residuals: Any, ct: Array
) -> tuple[Array, Array]:
  # The parts are the gradients of sum(dy * conv(x, kernel)) by dy, x and the kernel, and each is
  # linear in the other two. So their gradients are again these parts.
  first, second = residuals
  of = functools.partial(_part, platform, lowering, geometry)
  match part:
    case "forward":
      return of("input_gradient", ct, second), of("kernel_gradient", first, ct)
    case "input_gradient":
      return of("forward", ct, second), of("kernel_gradient", ct, first)
    case _:
      return of("input_gradient", second, ct), of("forward", first, ct)


_part.defvjp(lambda *args: (_part(*args), args[4:]), _part_bwd)
