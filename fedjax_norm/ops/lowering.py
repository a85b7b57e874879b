"""How a part of a model is put to XLA, and what convolutions and pools have in common."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.experimental.xla_metadata import set_xla_metadata

from fedjax_norm.typing import Array

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Of an image: (top, bottom), (left, right); a negative pad crops."""


def on_cpu() -> bool:
  """Whether the default backend is a CPU, whose compiler wants some operations in other forms."""
  return jax.default_backend() == "cpu"


@functools.cache
def apart(function: Callable[..., Array], *static) -> Callable[..., Array]:
  """A function of arrays; on a CPU it runs apart from what surrounds it, one client at a time.

  Inlined, a strided or transposed read of an activation would be fused with the layers before it,
  which computes them again, element by element and out of order (a fifth of a ResNet-20's step).
  And under vmap, per-client kernels would become a grouped convolution.

  Args:
    function: (*static, *arrays) -> array.
    *static: its first arguments.
  """
  if not on_cpu():
    return functools.partial(function, *static)

  one_by_one = sequential_vmap(functools.partial(function, *static))

  def run(*arrays: Array) -> Array:
    with set_xla_metadata(inlineable="true"):  # what it calls in its turn
      return one_by_one(*arrays)

  run.__name__ = function.__name__  # what profiles show
  compiled = jax.jit(run)

  def call(*arrays: Array) -> Array:
    with set_xla_metadata(inlineable="false"):
      return compiled(*arrays)

  return call


def pad_or_crop(pads: Pads, x: Array) -> Array:
  """Pads the rows and columns of [N, H, W, C] with zeros, or crops them."""
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])
