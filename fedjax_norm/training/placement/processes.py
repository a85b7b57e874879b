"""Joins several processes, on one or several machines, to one run by ``jax.distributed``."""

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
"""Maximum time that a process waits for the other processes at the start."""

HEARTBEAT_SECONDS = 20
"""Time without a sign of life of one process after which the runtime ends all processes."""

# At the end, the other processes wait while process 0 writes the last files; a process that dies
# meanwhile is detected by its heartbeat.
_SHUTDOWN_SECONDS = 3600

# Words in error texts that mean a lost process or network: in errors of any type, and in
# JaxRuntimeError only (other errors can quote a path with such a word).
_NETWORK_WORDS = ("coordination", "deadline_exceeded", "gloo", "nccl")
_RUNTIME_WORDS = ("barrier", "connect", "unavailable")


class ProcessInfo(NamedTuple):
  """One of the processes of a run.

  Attributes:
    coordinator_address: HOST:PORT at which process 0 coordinates the run.
    num_processes: number of processes of the run.
    process_id: index of the process, from 0 to ``num_processes - 1``.
  """

  coordinator_address: str
  num_processes: int
  process_id: int

  def __str__(self) -> str:
    """Returns a text for error messages, such as 'process 0 of 2'."""
    return f"process {self.process_id} of {self.num_processes}"


def is_main() -> bool:
  """Returns whether this is process 0, which prints, draws plots and writes the common files."""
  return jax.process_index() == 0


def lost_process_error(process: ProcessInfo) -> LostError:
  """Returns the error of a process that has lost the connection to another process."""
  return LostError(
    f"{process} ended because another process of the run died or could not be reached; start all "
    "processes again with the same --workdir to resume from the last checkpoint."
  )


def is_network_error(error: BaseException | None) -> bool:
  """Returns whether an error or one of its causes is about another process or the network.

  The text decides, because the same failure raises ``JaxRuntimeError`` or ``ValueError``.
  """
  if error is None or isinstance(error, UserError | OSError):  # OSError: the text can be a path
    return False
  text = str(error).lower()
  runtime_error = isinstance(error, jax.errors.JaxRuntimeError)
  words = _NETWORK_WORDS + (_RUNTIME_WORDS if runtime_error else ())
  return any(word in text for word in words) or is_network_error(error.__cause__)


@contextlib.contextmanager
def join(
  process: ProcessInfo,
  initialization_seconds: int = INITIALIZATION_SECONDS,
  heartbeat_seconds: int = HEARTBEAT_SECONDS,
) -> Iterator[None]:
  """Joins a run before JAX starts; at the end, leaves it together with the other processes.

  If one process dies, each other process gets an error from a collective operation, or is aborted
  if the runtime hangs; so start this process from a supervisor process. After an error, end the
  process by ``os._exit``, because JAX's exit waits for the other processes.

  Raises:
    LostError: another process died or cannot be reached.
    UserError: the port is in use, or processes have unequal numbers of devices.
  """
  if process.process_id == 0:
    _check_port(int(process.coordinator_address.rpartition(":")[2]))
  # JAX's preemption service would catch SIGTERM and keep the process alive.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      *process,
      cluster_detection_method="deactivate",  # SLURM detection would hide all devices except one
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
      raise lost_process_error(process) from error
    raise


def check_same_flags(flags: dict[str, Any]) -> None:
  """Raises a UserError in every process if a flag (of a JSON type) differs between processes."""
  names = sorted(flags)
  texts = (json.dumps(flags[name], sort_keys=True).encode() for name in names)
  sums = np.array([zlib.crc32(text) for text in texts], np.uint32)
  others = multihost_utils.process_allgather(sums)
  processes, columns = np.nonzero(others != others[0])
  if len(columns):
    raise UserError(
      f"process {processes[0]} was started with another --{names[columns[0]]} than process 0; "
      "start all processes with the same flags except --process_id."
    )


def _check_port(port: int) -> None:
  """Raises a UserError if the port is in use.

  The runtime would crash, or share the port with the coordinator of another run.
  """
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
  """Raises a UserError if the processes have unequal numbers of devices."""
  counts = np.bincount([device.process_index for device in jax.devices()])
  differing = np.flatnonzero(counts != counts[0])
  if len(differing):
    other = differing[0]
    raise UserError(
      f"process 0 has {counts[0]} devices and process {other} has {counts[other]}; start all "
      "processes with the same number of devices (on CPUs: --host_devices)."
    )


def _connect() -> None:
  """Connects all devices by one collective operation.

  Gloo waits at most 30 seconds when a set of devices connects for the first time, and without limit
  later; so the devices connect now, before one process takes longer than another.
  """
  mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
  total = jax.shard_map(
    lambda: jax.lax.psum(jnp.ones(()), "all"), mesh=mesh, in_specs=(), out_specs=P()
  )
  jax.block_until_ready(jax.jit(total)())
  multihost_utils.sync_global_devices("joined")  # connects the device sets that checkpoints use
