"""How the parts of a convolution, and similar operations, run under vmap over clients.

On a CPU, clients run one after another, each in the form that is fast for it. On accelerators, the
form depends on what differs between the clients.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.experimental.xla_metadata import set_xla_metadata

from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.lowerings import FORMS
from fedjax_norm.ops.rules import Part, choose
from fedjax_norm.typing import Array


def default_platform() -> str:
  """Returns the platform for which convolutions are lowered: that of JAX's default backend."""
  return jax.default_backend()


def run(
  part: Part, platform: str, lowering: str | None, geometry: Geometry, first: Array, second: Array
) -> Array:
  """Runs a part of a convolution, in the form that the table names for it.

  Args:
    part: the convolution itself or one of its gradients.
    platform: ``'cpu'``, or ``'gpu'`` or another accelerator.
    lowering: name of a form to use instead of the table's.
    geometry: sizes along rows and columns.
    first: x, or dy for the input gradient.
    second: the kernel, or dy for the kernel gradient.
  """
  if platform == "cpu":
    name = lowering or _form(part, platform, geometry, first, second, False)
    return isolated(getattr(FORMS[name], part), geometry)(first, second)
  return _on_accelerator(part, platform, lowering, geometry)(first, second)


def _form(
  part: Part, platform: str, geometry: Geometry, first: Array, second: Array, per_client: bool
) -> str:
  """Returns the table's form for a client's arrays."""
  inputs = second.shape[2] if part == "input_gradient" else first.shape[-1]
  dtype, outputs = str(first.dtype), second.shape[-1]
  return choose(part, platform, dtype, geometry, len(first), inputs, outputs, per_client)


@functools.cache
def _on_accelerator(
  part: Part, platform: str, lowering: str | None, geometry: Geometry
) -> Callable[[Array, Array], Array]:
  """Returns a part as a function of two arrays, with a rule for vmap."""

  def form(per_client: bool, first: Array, second: Array) -> Array:
    name = lowering or _form(part, platform, geometry, first, second, per_client)
    return getattr(FORMS[name], part)(geometry, first, second)

  call = custom_vmap(functools.partial(form, False))

  @call.def_vmap
  def over_clients(
    clients: int, mapped: list[bool], first: Array, second: Array
  ) -> tuple[Array, bool]:
    if part != "kernel_gradient" and not mapped[1]:
      # All clients have the same kernel: their images are one large batch.
      images = call(first.reshape(-1, *first.shape[2:]), second)
      return images.reshape(clients, -1, *images.shape[1:]), True
    # If the clients share the images, XLA makes one convolution with the channels of all kernels.
    axes = [0 if is_mapped else None for is_mapped in mapped]
    return jax.vmap(functools.partial(form, all(mapped)), axes)(first, second), True

  return call


@functools.cache
def isolated(function: Callable[..., Array], *static: Any) -> Callable[..., Array]:
  """Returns ``function`` with its first arguments bound to ``static``, as a function of arrays.

  On a CPU, XLA does not inline it, and vmap runs it for one client at a time. If it were inlined,
  XLA would fuse a strided or transposed read of an activation with the previous layers and compute
  them again, element by element and out of order (a fifth of the time of a ResNet-20's step). Under
  vmap, kernels of several clients would become a grouped convolution, which is slow.
  """
  plain = functools.partial(function, *static)
  if jax.default_backend() != "cpu":
    return plain
  one_by_one = sequential_vmap(plain)

  def run(*arrays: Array) -> Array:
    with set_xla_metadata(inlineable="true"):  # functions that it calls
      return one_by_one(*arrays)

  run.__name__ = function.__name__  # the name in profiles
  compiled = jax.jit(run)

  @jax.custom_vjp
  def call(*arrays: Array) -> Array:
    with set_xla_metadata(inlineable="false"):
      return compiled(*arrays)

  # A gradient of a gradient may need that of the function, which sequential_vmap does not have.
  call.defvjp(
    lambda *arrays: (call(*arrays), arrays), lambda arrays, ct: jax.vjp(plain, *arrays)[1](ct)
  )
  return call
