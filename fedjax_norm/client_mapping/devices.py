"""The devices of the machine: their memory, and the number of CPU devices."""

import jax

from fedjax_norm import host_memory
from fedjax_norm.errors import UserError

_MAX_HOST_DEVICES = 1024  # each of them starts threads


def device_memory(devices: list[jax.Device]) -> int:
  """Returns the bytes of memory of one device; CPU devices share the main memory equally."""
  local = [device for device in devices if device.process_index == jax.process_index()]
  stats = local[0].memory_stats() or {}
  return stats.get("bytes_limit", host_memory.total_bytes() // len(local))


def use_host_devices(count: int) -> None:
  """Sets the number of single-threaded CPU devices of JAX; must be called before JAX is used.

  Raises:
    UserError: ``count`` is below 1 or above 1024, or JAX has already started with another number.
  """
  if not 1 <= count <= _MAX_HOST_DEVICES:
    raise UserError(
      f"host_devices is {count}; it must be at least 1 and at most {_MAX_HOST_DEVICES}."
    )
  try:
    jax.config.update("jax_num_cpu_devices", count)
  except RuntimeError:
    if len(jax.devices("cpu")) != count:
      raise UserError(
        f"JAX has already started with {len(jax.devices('cpu'))} host devices; call "
        f"use_host_devices({count}) first, before any array is made."
      ) from None
