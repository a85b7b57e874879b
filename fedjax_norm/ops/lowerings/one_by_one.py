"""XLA's own convolutions, under vmap for one client after another."""

import functools

from jax.custom_batching import sequential_vmap

from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.lowerings import xla
from fedjax_norm.typing import Array


def forward(geometry: Geometry, x: Array, kernel: Array) -> Array:
  """Returns the convolution."""
  return sequential_vmap(functools.partial(xla.forward, geometry))(x, kernel)


def input_gradient(geometry: Geometry, dy: Array, kernel: Array) -> Array:
  """Returns the gradient of x."""
  return sequential_vmap(functools.partial(xla.input_gradient, geometry))(dy, kernel)


def kernel_gradient(geometry: Geometry, x: Array, dy: Array) -> Array:
  """Returns the gradient of the kernel."""
  return sequential_vmap(functools.partial(xla.kernel_gradient, geometry))(x, dy)
