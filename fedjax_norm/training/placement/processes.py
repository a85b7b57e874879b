"""Several processes, on one machine or many, that run one program through JAX's own runtime."""

import contextlib
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fedjax_norm.errors import LostError, UserError

INITIALIZATION_SECONDS = 60
"""How long a process waits at the start for all others."""

HEARTBEAT_SECONDS = 20
"""How long a process may be silent before the runtime ends all others."""

# At the end the others wait while process 0 writes the last files; who dies then is told by the
# heartbeat, not by this.
_SHUTDOWN_SECONDS = 3600

# What errors say when it is the others or the way to them that failed: of any type, and what only
# the runtime's own mean by it, for others may quote a path.
_OF_THE_NETWORK = ("coordination", "deadline_exceeded", "gloo", "nccl")
_OF_THE_RUNTIME = ("barrier", "connect", "unavailable")


class ProcessInfo(NamedTuple):
  """One process's place among those of a run.

  Attributes:
    coordinator_address: HOST:PORT at which process 0 coordinates the run.
    num_processes: of the run.
    process_id: from 0 to ``num_processes - 1``.
  """

  coordinator_address: str
  num_processes: int
  process_id: int

  def __str__(self) -> str:
    """As in a sentence."""
    return f"process {self.process_id} of {self.num_processes}"


def is_main() -> bool:
  """Whether this process is the one that prints, draws and writes what only one writes."""
  return jax.process_index() == 0


def lost_process_error(place: ProcessInfo) -> LostError:
  """The error of a process that another one left alone."""
  return LostError(
    f"{place} ended because another process of the run died or could not be reached; start all "
    "processes again with the same --workdir to go on from the last checkpoint."
  )


def is_network_error(error: BaseException | None) -> bool:
  """Whether it is the other processes, or the way to them, that an error or its causes are about.

  The type says nothing: for one and the same failure it is ``JaxRuntimeError`` or ``ValueError``.
  """
  if error is None or isinstance(error, UserError | OSError):  # of a file, whatever its name
    return False
  text, own = str(error).lower(), isinstance(error, jax.errors.JaxRuntimeError)
  signs = _OF_THE_NETWORK + (_OF_THE_RUNTIME if own else ())
  return any(sign in text for sign in signs) or is_network_error(error.__cause__)


@contextlib.contextmanager
def join(
  place: ProcessInfo,
  initialization_seconds: int = INITIALIZATION_SECONDS,
  heartbeat_seconds: int = HEARTBEAT_SECONDS,
) -> Iterator[None]:
  """Joins the run before JAX has started, and leaves it together with the others at the end.

  A process that dies ends the others: by an error of a collective, or by an abort of the whole
  process, for the runtime does not return from what it hangs in. So this belongs into a process
  that another one supervises. After an error the caller has to end by ``os._exit``: JAX's own
  ending waits for the others.

  Args:
    place: of this process.
    initialization_seconds: how long to wait for the others, after which the runtime aborts.
    heartbeat_seconds: how long a process may be silent before the others are aborted.

  Raises:
    LostError: another process died or cannot be reached.
    UserError: the port is in use, or processes have unequal numbers of devices.
  """
  if place.process_id == 0:
    _check_port(int(place.coordinator_address.rpartition(":")[2]))
  # Its service catches SIGTERM and keeps the process alive.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      *place,
      cluster_detection_method="deactivate",  # in SLURM it would hide all devices but one
      initialization_timeout=initialization_seconds,
      heartbeat_timeout_seconds=heartbeat_seconds,
      shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    _check_devices()
    _connect()
    yield
    jax.distributed.shutdown()
  except Exception as error:
    if is_network_error(error):
      raise lost_process_error(place) from error
    raise


def check_same_flags(flags: dict[str, Any]) -> None:
  """Checks that all processes were started with the same flags, else their programs would differ.

  Args:
    flags: name to JSON types; the same names everywhere.

  Raises:
    UserError: on every process, of a flag that differs.
  """
  names = sorted(flags)
  texts = (json.dumps(flags[name], sort_keys=True).encode() for name in names)
  sums = np.array([zlib.crc32(text) for text in texts], np.uint32)
  others = multihost_utils.process_allgather(sums)
  processes, columns = np.nonzero(others != others[0])
  if len(columns):
    raise UserError(
      f"process {processes[0]} was started with another --{names[columns[0]]} than process 0; "
      "start all processes with the same flags but for --process_id."
    )


def _check_port(port: int) -> None:
  # The runtime crashes on a port in use, and shares one with another run's coordinator.
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  try:
    socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
  except OSError as error:
    raise UserError(
      f"process 0 cannot coordinate the run at port {port} ({error.strerror}); give all processes "
      "another port in --coordinator_address."
    ) from error


def _check_devices() -> None:
  counts = np.bincount([device.process_index for device in jax.devices()])
  differing = np.flatnonzero(counts != counts[0])
  if len(differing):
    other = differing[0]
    raise UserError(
      f"process 0 has {counts[0]} devices and process {other} has {counts[other]}; give all "
      "processes as many, with --host_devices on CPUs."
    )


def _connect() -> None:
  """Lets all devices hear each other once.

  Gloo waits for 30 seconds where a set of devices meets for the first time, and later for as long
  as it takes; so they meet now, before anything that takes one process longer than another.
  """
  mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
  total = jax.shard_map(
    lambda: jax.lax.psum(jnp.ones(()), "all"), mesh=mesh, in_specs=(), out_specs=P()
  )
  jax.block_until_ready(jax.jit(total)())
  multihost_utils.sync_global_devices("joined")  # meets in other sets, those of a checkpoint's save
