"""Helpers of convolutions and pools: padding, and functions that XLA compiles separately."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.experimental.xla_metadata import set_xla_metadata

from fedjax_norm.typing import Array

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Padding of an image: (top, bottom), (left, right); negative padding crops."""


def on_cpu() -> bool:
  """Whether the default backend is a CPU, which runs some operations faster in other forms."""
  return jax.default_backend() == "cpu"


@functools.cache
def isolated(function: Callable[..., Array], *static: Any) -> Callable[..., Array]:
  """Returns ``function`` with its first arguments bound to ``static``, as a function of arrays.

  On a CPU, XLA does not inline it, and vmap runs it for one client at a time. If it were inlined,
  XLA would fuse a strided or transposed read of an activation with the previous layers and compute
  them again, element by element and out of order (a fifth of the time of a ResNet-20's step). Under
  vmap, kernels of several clients would become a grouped convolution, which is slow.
  """
  if not on_cpu():
    return functools.partial(function, *static)

  one_by_one = sequential_vmap(functools.partial(function, *static))

  def run(*arrays: Array) -> Array:
    with set_xla_metadata(inlineable="true"):  # functions that it calls
      return one_by_one(*arrays)

  run.__name__ = function.__name__  # the name in profiles
  compiled = jax.jit(run)

  def call(*arrays: Array) -> Array:
    with set_xla_metadata(inlineable="false"):
      return compiled(*arrays)

  return call


def pad_or_crop(pads: Pads, x: Array) -> Array:
  """Pads the rows and columns of [N, H, W, C] with zeros; negative pads crop."""
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])
