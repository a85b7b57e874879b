"""Chooses how clients are mapped, given the devices, the memory of each device and the norm."""

from collections.abc import Callable

import jax
from jax.sharding import AxisType

from fedjax_norm.client_mapping.devices import device_memory
from fedjax_norm.client_mapping.mapping import DEVICES, ClientMapping
from fedjax_norm.errors import UserError

BACKENDS = ("auto", "vmap", "scan", "pmap", "shard_map")

# Share of an accelerator's memory for clients that run in parallel; the data may use half of it.
_CLIENTS_SHARE = 0.3


def create(
  backend: str = "auto",
  *,
  num_clients: int,
  chunk: int | None = None,
  lockstep: bool = False,
  client_bytes: Callable[[], int] | None = None,
  devices: list[jax.Device] | None = None,
) -> ClientMapping:
  """Returns the mapping of clients to devices for the options ``backend`` and ``chunk``.

  ``auto`` divides the clients over several devices (shard_map). A single device that is a CPU runs
  the clients sequentially (scan), because vmap is no faster and takes more memory. An accelerator
  runs as many clients in parallel (vmap) as fit its memory; each takes as many steps as the client
  with the most steps. If a norm merges statistics, all clients run in lock-step and without padding
  clients, which would contribute statistics: the number of devices then divides that of clients.

  Args:
    backend: one of ``BACKENDS``.
    num_clients: number of clients to map.
    chunk: number of clients that a device runs in parallel; 0 for all of them; None to choose.
    lockstep: whether a norm merges statistics across clients, so that all must run in parallel.
    client_bytes: () -> bytes of device memory per running client; called on accelerators only. None
      assumes that all clients fit.
    devices: devices to use; by default all devices of JAX.

  Raises:
    UserError: the backend is unknown or cannot do what ``chunk``, ``lockstep`` or several processes
      need, or ``chunk`` is negative.
  """
  if backend not in BACKENDS:
    raise UserError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
  if chunk is not None and chunk < 0:
    raise UserError(f"--chunk is {chunk}; it must be 0 (all clients in parallel) or more.")
  if lockstep and (backend == "scan" or chunk):
    raise UserError(
      "a norm that merges statistics across clients needs all of them in lock-step, which "
      f"{'--backend=scan' if backend == 'scan' else '--chunk'} rules out; use --backend=vmap, pmap "
      "or shard_map without --chunk."
    )
  if backend == "scan" and chunk not in (None, 1):
    raise UserError(f"--backend=scan runs one client at a time; drop --chunk={chunk} or use vmap.")
  devices = devices or jax.devices()
  if multi_process := jax.process_count() > 1:
    # Every process takes part with all of its devices, padded with clients that count for nothing.
    if backend in ("vmap", "scan", "pmap"):
      raise UserError(
        f"--backend={backend} is for one process; use shard_map or auto for several processes."
      )
  else:
    devices = devices[: max(1, min(len(devices), num_clients))]
    while lockstep and num_clients % len(devices):
      devices = devices[:-1]
  # Measured on CPUs (benchmarks/README.md); an educated guess for accelerators.
  on_cpu = devices[0].platform == "cpu"
  auto_chunk = 0 if lockstep else 1 if on_cpu else None
  auto_backend = "scan" if auto_chunk == 1 else "vmap"
  if multi_process or len(devices) > 1:
    auto_backend = "shard_map"
  if backend == "auto":
    backend = "vmap" if auto_backend == "scan" and chunk is not None else auto_backend
  if backend == "scan":
    chunk = 1
  elif chunk is None:
    # On one device, an explicit vmap runs all clients in parallel.
    chunk = 0 if backend == "vmap" and auto_chunk == 1 else auto_chunk
  if backend in ("vmap", "scan"):
    devices = devices[:1]
  if chunk is None:
    chunk = _fitting_chunk(-(-num_clients // len(devices)), client_bytes, devices)
  mesh = None
  if backend in ("pmap", "shard_map"):
    mesh = jax.make_mesh((len(devices),), (DEVICES,), axis_types=(AxisType.Auto,), devices=devices)
  return ClientMapping(backend, chunk, mesh, lockstep)


def _fitting_chunk(
  num_clients: int, client_bytes: Callable[[], int] | None, devices: list[jax.Device]
) -> int:
  """Returns how many of a device's clients fit into its memory in parallel; 0 for all of them."""
  if client_bytes is None:
    return 0
  count = fitting(client_bytes(), devices)
  return 0 if count >= num_clients else count


def fitting(size: int, devices: list[jax.Device]) -> int:
  """Returns how often ``size`` bytes fit into a device's memory for clients; at least 1."""
  return max(1, int(_CLIENTS_SHARE * device_memory(devices) // size))
