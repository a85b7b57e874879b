"""Chooses how clients are mapped, given the devices, the memory of each device and the norm."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType

from fedjax_norm.client_mapping.devices import device_memory
from fedjax_norm.client_mapping.mapping import DEVICES, ClientMapping
from fedjax_norm.errors import UserError

BACKENDS = ("auto", "vmap", "scan", "pmap", "shard_map")

# Share of an accelerator's memory for clients that run in parallel; the data may use half of it.
_CLIENTS_SHARE = 0.3

# Of clients with unequal steps, as many run in parallel as keep this share of the work useful, but
# not fewer than the minimum, below which most accelerators would idle (a guess).
_BUSY_SHARE = 0.85
_MIN_CHUNK = 8


def create(
  backend: str = "auto",
  *,
  num_clients: int,
  chunk: int | None = None,
  lockstep: bool = False,
  client_bytes: Callable[[], int] | None = None,
  steps: np.ndarray | None = None,
  devices: list[jax.Device] | None = None,
) -> ClientMapping:
  """Returns the mapping of clients to devices for the options ``backend`` and ``chunk``.

  ``auto`` divides the clients over several devices (shard_map). A single device that is a CPU runs
  the clients sequentially (scan), because vmap is no faster and takes more memory. An accelerator
  runs as many clients in parallel (vmap) as fit its memory. They wait for the client with the most
  steps, so that fewer run in parallel if their steps differ much. Each device divides its clients
  into equal chunks, with as few padding clients as possible. If a norm merges statistics, all
  clients run in lock-step and without padding clients, which would contribute statistics: the
  number of devices then divides that of clients.

  Args:
    backend: one of ``BACKENDS``.
    num_clients: number of clients to map.
    chunk: maximum of clients that a device runs in parallel; 0 for all of them; None to choose.
    lockstep: whether a norm merges statistics across clients, so that all must run in parallel.
    client_bytes: () -> bytes of device memory per running client; called on accelerators only. None
      assumes that all clients fit.
    steps: [K] local steps of all clients, of which each round has ``num_clients`` random ones; None
      if they are equal.
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
  mesh = None
  if backend in ("pmap", "shard_map"):
    mesh = jax.make_mesh((len(devices),), (DEVICES,), axis_types=(AxisType.Auto,), devices=devices)
  share = -(-num_clients // len(devices))
  chosen = chunk is None
  if chunk is None:
    chunk = fitting(client_bytes(), devices) if client_bytes else 0
  mapping = ClientMapping(backend, chunk, mesh, lockstep)
  if multi_process:  # a device may have all clients of a cohort
    return mapping._replace(chunk=0) if chosen and chunk >= num_clients else mapping
  if chosen and steps is not None:
    return _efficient(mapping, steps, num_clients)
  return _even(mapping, share)


def _even(mapping: ClientMapping, share: int) -> ClientMapping:
  """Returns the mapping with equal chunks of the ``share`` clients of a device."""
  if mapping.chunk <= 1:
    return mapping
  chunks, size = mapping.divide(share)
  return mapping._replace(chunk=0 if chunks == 1 else size)


def _efficient(mapping: ClientMapping, steps: np.ndarray, num_clients: int) -> ClientMapping:
  """Returns the mapping with the largest chunk, up to ``mapping.chunk``, with little idle time."""
  share = -(-num_clients // mapping.num_devices)
  least = mapping.divide(share)[0]
  sizes = sorted({-(-share // chunks) for chunks in range(least, share + 1)}, reverse=True)
  sizes = [size for size in sizes if size >= _MIN_CHUNK] or sizes[:1]
  choices = [_even(mapping._replace(chunk=size), share) for size in sizes]
  busy = (one for one in choices if one.busy_share(steps, num_clients) >= _BUSY_SHARE)
  return next(busy, choices[-1])


def fitting(size: int, devices: list[jax.Device]) -> int:
  """Returns how often ``size`` bytes fit into a device's memory for clients; at least 1."""
  return max(1, int(_CLIENTS_SHARE * device_memory(devices) // size))
