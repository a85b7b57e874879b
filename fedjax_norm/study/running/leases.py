"""Leases: files by which processes on any number of machines divide work without a scheduler.

A piece of work has a folder that all processes can reach, with the files 0, 1, 2, ... The highest
number is the present lease. Its holder touches the file every few seconds until it gives the lease
back. If the holder has ended, or no longer touches the file, another process takes the work over by
creating the next number, which only one process can do. Ages are differences between times of the
file system, so the clocks of the machines may differ.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple, Self

HEARTBEAT = 2.0
"""Seconds between two touches of a lease."""

PATIENCE = 60.0
"""Seconds without a touch after which a lease is stale."""


class LostLease(BaseException):
  """Another process took the work over. Like Ctrl-C, it passes ``except Exception``."""


class Holder(NamedTuple):
  """What a lease says about the process that holds it.

  Attributes:
    host: name of the machine.
    machine: the machine's boot and the name space in which ``pid`` counts.
    pid: process id.
    started: start of the process, by which a process id that is used again is recognized.
    command: command line of the process.
    share: share of the work that is done, from 0 to 1.
    ended: whether the lease was given back.
  """

  host: str = "another machine"
  machine: str = ""
  pid: int = 0
  started: str = ""
  command: str = ""
  share: float = 0.0
  ended: bool = False

  @property
  def dead(self) -> bool:
    """Whether the process gave the lease back, or was on this machine and has ended."""
    return self.ended or (self.machine == _machine() and self.started != _started(self.pid))


class Lease:
  """A lease held by this process: a context manager that touches its file until the block ends."""

  def __init__(self, file: Path, descriptor: int, heartbeat: float):
    """Fills the new, empty ``file``, which is open as ``descriptor``."""
    pid, command = os.getpid(), " ".join(sys.argv)
    self._holder = Holder(socket.gethostname(), _machine(), pid, _started(pid), command)
    self._next, self._descriptor = file.with_name(str(int(file.name) + 1)), descriptor
    self._lost, self._ended = False, threading.Event()
    self._touch()
    self._thread = threading.Thread(target=self._beat, args=(heartbeat,), daemon=True)
    self._thread.start()

  def report(self, share: float) -> None:
    """Tells the other processes, at the next touch, which share of the work is done (0 to 1).

    Raises:
      LostLease: another process has taken the work over.
    """
    self._holder = self._holder._replace(share=share)
    if self._lost:
      raise LostLease

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    """Gives the lease back."""
    self._ended.set()
    self._thread.join()
    self._holder = self._holder._replace(ended=True)
    self._touch()
    os.close(self._descriptor)

  def _beat(self, seconds: float) -> None:
    while not self._lost and not self._ended.wait(seconds):
      with contextlib.suppress(OSError):  # the network may be down for a moment
        self._touch()
        self._lost = self._next.exists()

  def _touch(self) -> None:
    content = json.dumps(self._holder._asdict()).encode()
    os.pwrite(self._descriptor, content.ljust(os.fstat(self._descriptor).st_size), 0)
    os.fsync(self._descriptor)
    os.utime(self._descriptor)


def take(folder: Path, patience: float = PATIENCE, heartbeat: float = HEARTBEAT) -> Lease | None:
  """Takes the lease of a piece of work, unless another living process holds it.

  Args:
    folder: the folder of the work's leases, created if missing.
    patience: seconds without a touch after which a lease is stale.
    heartbeat: seconds between two touches of the new lease.

  Returns:
    The lease; None if another process holds it or takes it at the same time.
  """
  folder.mkdir(parents=True, exist_ok=True)
  last = _last(folder)
  if last is not None and not _is_stale(last, patience):
    return None
  file = folder / str(0 if last is None else int(last.name) + 1)
  try:
    return Lease(file, os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), heartbeat)
  except FileExistsError:
    return None


def is_held(folder: Path, patience: float = PATIENCE) -> bool:
  """Returns whether a living process holds the lease of a piece of work."""
  last = _last(folder)
  return last is not None and not _is_stale(last, patience)


def read(folder: Path) -> Holder | None:
  """Returns the last holder of the lease of a piece of work; None if nobody has held it yet."""
  last = _last(folder)
  return None if last is None else _holder(last)


def holders(folder: Path) -> list[Holder]:
  """Returns all holders that the lease of a piece of work has had, the first one first."""
  return [_holder(folder / str(number)) for number in _numbers(folder)]


def _numbers(folder: Path) -> list[int]:
  try:
    return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
  except FileNotFoundError:
    return []


def _last(folder: Path) -> Path | None:
  numbers = _numbers(folder)
  return folder / str(numbers[-1]) if numbers else None


def _holder(file: Path) -> Holder:
  try:
    return Holder(**json.loads(file.read_text()))
  except (ValueError, TypeError):  # the holder has not written it yet
    return Holder()


def _is_stale(file: Path, patience: float) -> bool:
  if _holder(file).dead:
    return True
  # Network file systems ask the server for the times of a file when it is opened.
  with open(file) as lease, tempfile.TemporaryFile(dir=file.parent) as now:
    os.utime(now.fileno())
    return os.fstat(now.fileno()).st_mtime - os.fstat(lease.fileno()).st_mtime > patience


def _machine() -> str:
  """Returns the machine's boot and the name space of process ids, which differs by container."""
  boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str:
  """Returns the start of a process in clock ticks after the boot; empty if it has ended."""
  try:
    # The name of the program, in parentheses, may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return ""
  return "" if fields[0] in "ZX" else fields[19]
