"""Puts arrays on the devices of one or of several processes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_norm.client_mapping import DEVICES, ClientMapping
from fedjax_norm.typing import Array, PyTree

Place = Callable[[PyTree], PyTree]
"""Puts a pytree on all devices of a mapping."""


def placer(mapping: ClientMapping) -> Place:
  """Returns the function that replicates a pytree over the devices of a mapping.

  New and restored arrays get the same sharding, so that both run the same compiled program.
  """
  sharding = mapping.sharding
  if sharding is None:
    return lambda tree: jax.tree.map(jnp.asarray, tree)
  if mapping.multi_process:
    return lambda tree: jax.tree.map(functools.partial(_replicate, sharding), tree)
  return lambda tree: jax.device_put(tree, sharding)


def _replicate(sharding: NamedSharding, leaf: Array) -> Array:
  """Returns a global array with a copy on every device; every process has the array ``leaf``."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(_replicate(sharding, jax.random.key_data(leaf)))
  host = np.asarray(leaf)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def local_devices(mapping: ClientMapping) -> list[tuple[int, jax.Device]]:
  """Returns (index among all processes' devices, device) for each device of this process."""
  process = jax.process_index()
  return [(i, d) for i, d in enumerate(mapping.devices) if d.process_index == process]


def global_rows(mapping: ClientMapping, local: PyTree) -> PyTree:
  """Joins the ``local`` rows (host arrays) of all processes to global arrays.

  The rows are divided evenly over all devices.
  """
  devices = [device for _, device in local_devices(mapping)]
  sharding = mapping.row_sharding
  assert sharding

  def assemble(array: np.ndarray) -> Array:
    parts = zip(np.split(array, len(devices)), devices, strict=True)
    placed = [jax.device_put(part, device) for part, device in parts]
    shape = (mapping.num_devices * (len(array) // len(devices)), *array.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, placed)

  return jax.tree.map(assemble, local)


def local_rows(tree: PyTree) -> PyTree:
  """Returns this process's rows of global arrays, on the host: the inverse of ``global_rows``."""

  def rows(array: Array) -> np.ndarray:
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])

  return jax.tree.map(rows, tree)


def divide_slots(mapping: ClientMapping, slots: np.ndarray) -> Array:
  """Divides row numbers [..., D * width], equal in all processes, over the D devices."""
  assert mapping.mesh
  sharding = NamedSharding(mapping.mesh, P(*[None] * (slots.ndim - 1), DEVICES))
  return jax.make_array_from_callback(slots.shape, sharding, lambda index: slots[index])
