"""One process of a run of several: a supervising parent, and the child that does the work.

JAX's runtime aborts its process when another one of the run dies, with a long dump. The parent
lives on and says in one sentence what happened; the runtime's own words go to a log file.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from absl import logging

from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.processes import ProcessInfo, lost_process_error

# Marks a child in its environment: its parent's id and the descriptors of the terminal.
_MARK = "FEDJAX_NORM_CHILD"
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_FLAGS = ("coordinator_address", "num_processes", "process_id")

# What the runtime writes before it aborts its process.
_RUNTIME_ENDED = b"distributed service detected fatal errors"
_AT_THE_START = b"CoordinationService/RegisterTask"


def place_of(config: Any) -> ProcessInfo | None:
  """The place that the flags give this process, or None in a run of one process.

  Raises:
    UserError: the flags are incomplete or cannot be.
  """
  given: dict[str, Any] = {name: getattr(config, name) for name in _FLAGS}
  absent = [name for name, value in given.items() if value is None]
  if len(absent) == len(_FLAGS):
    return None
  if not config.several_processes:
    there = next(name for name in _FLAGS if name not in absent)
    raise UserError(f"{config.algorithm} runs in one process; drop --{there}.")
  if absent:
    raise UserError(
      f"--{absent[0]} is missing; a run of several processes needs "
      f"{', '.join(f'--{name}' for name in _FLAGS)} on each of them."
    )
  place = ProcessInfo(**given)
  host, _, port = place.coordinator_address.rpartition(":")
  if not host or not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16):
    raise UserError(
      f"--coordinator_address is {place.coordinator_address!r}; give HOST:PORT of process 0, as in "
      "10.0.0.1:12345."
    )
  if place.num_processes < 2:
    raise UserError(
      f"--num_processes is {place.num_processes}; it must be at least 2, for a run of one process "
      "needs none of these flags."
    )
  if not 0 <= place.process_id < place.num_processes:
    raise UserError(
      f"--process_id is {place.process_id}; with --num_processes={place.num_processes} it must be "
      f"from 0 to {place.num_processes - 1}."
    )
  if not config.workdir:
    raise UserError(
      "--workdir is missing; the processes of a run need one folder that all of them can reach."
    )
  return place


def supervise(place: ProcessInfo, workdir: str) -> int:
  """Starts the same command as a child and waits for its end.

  SIGINT and SIGTERM are passed on to the child, and the second of them kills it. The child ends
  with this process however that ends.

  Args:
    place: of this process.
    workdir: the run's folder. What the runtime writes is added to ``WORKDIR.logs/process_ID.log``.

  Returns:
    The child's exit code, which has then said why; 128 and the number of a signal that was passed
    on; 1 if the child was ended otherwise.
  """
  folder = Path(workdir).expanduser().absolute()
  log = folder.with_name(f"{folder.name}.logs") / f"process_{place.process_id}.log"
  log.parent.mkdir(parents=True, exist_ok=True)
  # Added to: another run may be using the folder, which the child is the first to find out.
  before = log.stat().st_size if log.exists() else 0
  terminal = os.dup(1), os.dup(2)
  with open(log, "ab") as file:
    child = subprocess.Popen(
      [sys.executable, *sys.orig_argv[1:]],
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=file,
      pass_fds=terminal,
      env={**os.environ, _MARK: ",".join(map(str, (os.getpid(), *terminal)))},
      process_group=0,  # so that the terminal's Ctrl-C reaches it once, from here
    )
  for descriptor in terminal:
    os.close(descriptor)
  passed = _wait(child)
  if child.returncode >= 0:
    return child.returncode
  if sys.stderr.isatty():
    print(file=sys.stderr)  # the child's progress bar has not ended its line
  print(f"error: {_reason(place, passed, -child.returncode, log, before)}", file=sys.stderr)
  return 128 + passed[0] if passed else 1


def is_child() -> bool:
  """Whether this process was started by :func:`supervise`."""
  return _MARK in os.environ


def as_child(work: Callable[[], int]) -> int:
  """Does a child's work; returns only if it went well, and ends the process at once otherwise.

  JAX's own ending of a process would wait for the others, which wait for this one.

  Args:
    work: () -> the exit code.

  Returns:
    The exit code 0.
  """
  # What this process starts is no child of the same parent.
  parent, *terminal = map(int, os.environ.pop(_MARK).split(","))
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # it ended before the line above
    os._exit(1)
  # Python writes to the terminal; the runtime, to descriptors 1 and 2, writes to the log.
  sys.stdout, sys.stderr = map(_reopened, (sys.stdout, sys.stderr), terminal)
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


def _reopened(stream: TextIO, descriptor: int) -> TextIO:
  return open(descriptor, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def _wait(child: subprocess.Popen) -> list[int]:
  """Waits for the child's end; gives the signals that were passed on to it."""
  passed: list[int] = []

  def forward(number, frame):
    child.send_signal(signal.SIGKILL if passed else number)
    passed.append(number)

  before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    child.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return passed


def _reason(place: ProcessInfo, passed: list[int], number: int, log: Path, before: int) -> str:
  """Why a signal ended the child, which has written to the log after so many bytes."""
  said = log.read_bytes()[before:]
  if passed:
    return (
      f"{place} was stopped by {signal.Signals(passed[0]).name}; what was saved stays, and the "
      "same --workdir goes on from it."
    )
  if _RUNTIME_ENDED not in said:
    return (
      f"{place} was ended by {signal.Signals(number).name}, as by the system when memory runs out "
      f"({log} has what it wrote); start all processes again with the same --workdir to go on from "
      "the last checkpoint."
    )
  if _AT_THE_START in said:
    return (
      f"{place} did not meet the others at {place.coordinator_address} in time; see that process 0 "
      "runs there, that its port can be reached, and that all processes are started together with "
      f"the same --num_processes and each with its own --process_id ({log} has what the runtime "
      "said)."
    )
  return f"{str(lost_process_error(place)).removesuffix('.')} ({log} has what the runtime said)."
