"""Runs each process of a run of several processes as a child of the process that the user started.

If another process of the run dies, JAX's runtime aborts the child with a long dump. The parent
survives and prints one sentence; the output of JAX's runtime goes to a log file.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from absl import logging

from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.processes import ProcessInfo, lost_process_error

# Environment variable of a child: the parent's process id and two file descriptors, by which the
# child writes to the parent's stdout and stderr.
_MARK = "FEDJAX_NORM_CHILD"
_PR_SET_PDEATHSIG = 1  # option of prctl in Linux
_FLAGS = ("coordinator_address", "num_processes", "process_id")

# Texts that JAX's runtime writes before it aborts its process: because another process died, and
# because the processes did not all connect at the start.
_RUNTIME_ENDED = b"distributed service detected fatal errors"
_AT_THE_START = b"CoordinationService/RegisterTask"


def process_info(config: Any) -> ProcessInfo | None:
  """Returns the flags of a process in a run of several, or None in a run of one process.

  Raises:
    UserError: a flag of :data:`_FLAGS` is missing or invalid, or the method runs in one process.
  """
  given: dict[str, Any] = {name: getattr(config, name) for name in _FLAGS}
  absent = [name for name, value in given.items() if value is None]
  if len(absent) == len(_FLAGS):
    return None
  if not config.several_processes:
    present = next(name for name in _FLAGS if name not in absent)
    raise UserError(f"{config.algorithm} runs in one process; drop --{present}.")
  if absent:
    raise UserError(
      f"--{absent[0]} is missing; a run of several processes needs "
      f"{', '.join(f'--{name}' for name in _FLAGS)} in each process."
    )
  process = ProcessInfo(**given)
  host, _, port = process.coordinator_address.rpartition(":")
  if not host or not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16):
    raise UserError(
      f"--coordinator_address is {process.coordinator_address!r}; give HOST:PORT of process 0, "
      "such as 10.0.0.1:12345."
    )
  if process.num_processes < 2:
    raise UserError(
      f"--num_processes is {process.num_processes}; it must be at least 2. For one process, drop "
      f"{', '.join(f'--{name}' for name in _FLAGS)}."
    )
  if not 0 <= process.process_id < process.num_processes:
    raise UserError(
      f"--process_id is {process.process_id}; with --num_processes={process.num_processes} it must "
      f"be from 0 to {process.num_processes - 1}."
    )
  if not config.workdir:
    raise UserError(
      "--workdir is missing; name one folder that all processes of the run can reach."
    )
  return process


def supervise(process: ProcessInfo, workdir: str) -> int:
  """Starts this process's command again as a child process and waits for its end.

  A first SIGINT or SIGTERM is passed on to the child; a second one kills it. The child is killed if
  this process dies.

  Args:
    process: flags of this process.
    workdir: the run's folder; output of JAX's runtime is appended to
      ``WORKDIR.logs/process_ID.log``.

  Returns:
    The child's exit code if it exits; if a signal ends it, 128 plus the number of the first signal
    passed on, or 1 if none was.
  """
  folder = Path(workdir).expanduser().absolute()
  log = folder.with_name(f"{folder.name}.logs") / f"process_{process.process_id}.log"
  log.parent.mkdir(parents=True, exist_ok=True)
  # Only the child detects that another run uses the folder: do not overwrite that run's log.
  before = log.stat().st_size if log.exists() else 0
  child = start(log, (1, 2))
  passed = _wait(child)
  if child.returncode >= 0:
    return child.returncode
  if sys.stderr.isatty():
    print(file=sys.stderr)  # ends the line of the child's progress bar
  print(f"error: {_reason(process, passed, -child.returncode, log, before)}", file=sys.stderr)
  return 128 + passed[0] if passed else 1


def start(
  log: Path, terminal: tuple[int, int] | None = None, pass_fds: Sequence[int] = (), **marks: str
) -> subprocess.Popen:
  """Starts this process's command again as a child process, which dies with this process.

  Args:
    log: file to which the output of JAX's runtime is appended, in an existing folder.
    terminal: descriptors to which Python's output goes; None for the log.
    pass_fds: further descriptors that the child gets.
    **marks: further environment variables of the child.
  """
  with open(log, "ab") as file:
    outputs = [os.dup(descriptor) for descriptor in terminal or [file.fileno()] * 2]
    try:
      return subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        pass_fds=(*outputs, *pass_fds),
        env={**os.environ, **marks, _MARK: ",".join(map(str, (os.getpid(), *outputs)))},
        process_group=0,  # Ctrl-C in the terminal reaches the child only through this process
      )
    finally:
      for descriptor in outputs:
        os.close(descriptor)


def is_child() -> bool:
  """Returns whether :func:`start` started this process."""
  return _MARK in os.environ


def as_child(work: Callable[[], int]) -> int:
  """Calls ``work`` in a child and returns its exit code 0; any other code ends the process here.

  A normal exit of a failed JAX process would wait for the other processes, which wait for it.
  """
  # Without the variable, processes that this one starts do not take themselves for such children.
  parent, *terminal = map(int, os.environ.pop(_MARK).split(","))
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # the parent died before prctl
    os._exit(1)
  # Python writes to the terminal; JAX's runtime writes to descriptors 1 and 2, which are the log.
  sys.stdout, sys.stderr = map(_reopen, (sys.stdout, sys.stderr), terminal)
  logging.get_absl_handler().python_handler.setStream(sys.stderr)
  try:
    code = work()
  except BaseException:
    traceback.print_exc()
    code = 1
  if code:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def _reopen(stream: TextIO, descriptor: int) -> TextIO:
  return open(descriptor, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def _wait(child: subprocess.Popen) -> list[int]:
  """Waits for the child's end and returns the signals that were passed on to it."""
  passed: list[int] = []

  def forward(number: int, frame: FrameType | None) -> None:
    child.send_signal(signal.SIGKILL if passed else number)
    passed.append(number)

  before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    child.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return passed


def _reason(process: ProcessInfo, passed: list[int], number: int, log: Path, offset: int) -> str:
  """Returns why signal ``number`` ended the child.

  ``passed`` are the signals passed on to the child, which wrote to ``log`` from byte ``offset`` on.
  """
  if passed:
    return (
      f"{process} was stopped by {signal.Signals(passed[0]).name}; the same --workdir resumes from "
      "the last checkpoint, if there is one."
    )
  output = log.read_bytes()[offset:]
  if _RUNTIME_ENDED not in output:
    return (
      f"{process} was ended by {signal.Signals(number).name}, possibly because the machine ran out "
      f"of memory (its output is in {log}); start all processes again with the same --workdir to "
      "resume from the last checkpoint."
    )
  if _AT_THE_START in output:
    return (
      f"{process} did not meet the others at {process.coordinator_address} in time; check that "
      "process 0 runs there, that its port can be reached, and that all processes are started "
      "together with the same --num_processes and with different --process_id (output of the "
      f"runtime is in {log})."
    )
  reason = str(lost_process_error(process)).removesuffix(".")
  return f"{reason} (output of the runtime is in {log})."
