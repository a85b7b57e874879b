"""The processes of a study: each trains contenders until all are finished or taken by others.

On a CPU, the process that the user starts trains nothing itself. It starts its command again once
for each share of the cores, and again if such a worker crashes.
"""

import collections
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fedjax_norm.cli import child_process
from fedjax_norm.errors import LostError, UserError
from fedjax_norm.study.planning.plan import PLAN, Cell, Plan, read_plan
from fedjax_norm.study.results.study_files import read_contender
from fedjax_norm.study.running import leases
from fedjax_norm.study.running.train_cell import train_cell, write_failure
from fedjax_norm.training.storage.atomic_files import read_json

_MARK = "FEDJAX_NORM_STUDY"  # environment variable of a worker: the fields of ``Worker`` as JSON
_POLL = 0.2  # seconds between two looks at the workers
_GRACE = 15.0  # seconds until a worker that should stop is killed, which loses no finished work
_CRASHES = 2  # number of crashes of its workers after which a contender counts as failed


def lease_of(folder: Path, cell: Cell) -> Path:
  """Returns the folder of a contender's leases."""
  return folder / "leases" / cell.name


def is_finished(plan: Plan, folder: Path, cell: Cell) -> bool:
  """Returns whether a contender has an outcome of at least as many seeds as the plan asks for.

  It has more if another process has added seeds to the plan since.
  """
  outcome = _outcome_of(folder, cell)
  try:
    return outcome.exists() and read_json(outcome).get("seeds", 0) >= plan.seeds
  except UserError:  # a damaged outcome is made anew
    return False


def _outcome_of(folder: Path, cell: Cell) -> Path:
  return folder / "cells" / f"{cell.name}.json"


def failed(folder: Path) -> list[Cell]:
  """Returns the contenders of a study that have failed, also because their runs are damaged."""
  if not (folder / PLAN).exists():
    return []
  plan = read_plan(folder)  # read once: other processes add contenders
  return [c for c in plan.cells if read_contender(folder, c, plan.seeds).state == "failed"]


def try_again(folder: Path, cells: Iterable[Cell]) -> None:
  """Deletes the outcomes of contenders that no process trains, so that they are trained again."""
  for cell in cells:
    if lease := leases.take(lease_of(folder, cell)):
      with lease:
        _outcome_of(folder, cell).unlink(missing_ok=True)


def unfinished(plan: Plan, folder: Path) -> list[Cell]:
  """Returns the contenders that are not finished."""
  return [cell for cell in plan.cells if not is_finished(plan, folder, cell)]


def is_over(until: float | None) -> bool:
  """Returns whether the time (of ``time.time``) until which work may go on is over."""
  return until is not None and time.time() >= until


def work(plan: Plan, folder: Path, until: float | None = None) -> None:
  """Trains the contenders that are neither finished nor taken, those that take longest first.

  At the time ``until``, the contender in training stops at its next evaluation, from which a later
  call goes on.
  """
  for cell in sorted(plan.cells, key=lambda cell: -cell.seconds):
    if is_over(until):
      return
    if is_finished(plan, folder, cell) or not (lease := leases.take(lease_of(folder, cell))):
      continue

    def report(share: float, lease: leases.Lease = lease) -> None:
      lease.report(share)
      if is_over(until):
        raise TimeIsUp

    with contextlib.suppress(leases.LostLease, TimeIsUp), lease:
      if not is_finished(plan, folder, cell):  # another process finished it a moment ago
        train_cell(plan, cell, folder, report)


def finish(plan: Plan, folder: Path, work: Callable[[], None], until: float | None = None) -> None:
  """Calls ``work`` until all contenders are finished; waits for those that others train.

  It ends at the time ``until``.
  """
  noted = False
  while (missing := unfinished(plan, folder)) and not is_over(until):
    held = [cell for cell in missing if leases.is_held(lease_of(folder, cell))]
    if len(held) < len(missing):
      work()
      continue
    if not noted:
      hosts = {holder.host for cell in held if (holder := leases.read(lease_of(folder, cell)))}
      print(f"note: other processes, on {', '.join(sorted(hosts))}, train the rest.", flush=True)
      noted = True
    time.sleep(_POLL)


class TimeIsUp(BaseException):
  """The time for the work is over. Like Ctrl-C, it passes ``except Exception``."""


class Worker(NamedTuple):
  """What a worker is told by the process that started it.

  Attributes:
    folder: the study's folder.
    number_of_workers: how many there are.
    planned: descriptor to which the worker writes as soon as the plan is made; None if it was.
    until: time until which it works; None without such a limit.
  """

  folder: str
  number_of_workers: int
  planned: int | None
  until: float | None = None

  def report_plan(self) -> None:
    """Tells the process that started this worker that the plan is made."""
    if self.planned is not None:
      with contextlib.suppress(BrokenPipeError), open(self.planned, "wb") as file:
        file.write(b"1")  # the pipe is broken if another worker has told it before


def this_worker() -> Worker | None:
  """Returns what this process was told if it is a worker, the first time; None otherwise."""
  told = os.environ.pop(_MARK, None)
  return None if told is None else Worker(*json.loads(told))


def cores(count: int) -> list[set[int]]:
  """Returns the CPU cores of each of ``count`` workers: equal shares of those of this process."""
  usable = sorted(os.sched_getaffinity(0))
  each = max(1, len(usable) // count)
  return [{usable[i % len(usable)] for i in range(n * each, (n + 1) * each)} for n in range(count)]


class Team(contextlib.AbstractContextManager):
  """The workers of a study on this machine; those that still run are ended with the block."""

  def __init__(self, folder: Path, count: int, until: float | None = None):
    """Starts ``count`` workers, which make the plan if ``folder`` has none, and waits for it.

    They end at the time ``until``.

    Raises:
      UserError: the options contradict each other, or the data cannot be read.
      LostError: a worker crashed.
    """
    self._folder, self._cores, self._logs = folder, cores(count), folder / "logs"
    self._until = until
    self._logs.mkdir(parents=True, exist_ok=True)
    self._workers: dict[int, subprocess.Popen] = {}
    self._starts = [0] * count  # sizes of the logs when the workers started
    self._crashes: collections.Counter[str] = collections.Counter()
    reader, writer = os.pipe()
    with contextlib.ExitStack() as ended, open(reader, "rb") as planned:
      ended.push(self)
      with open(writer, "wb"):
        for number in range(count):
          self._start(number, writer)
      if not planned.read(1):  # all workers have ended
        raise self._error(0, self._workers[0].wait())
      ended.pop_all()

  def work(self, plan: Plan) -> None:
    """Starts the workers that do not run, and waits until none finds a contender to train.

    If workers crash at the same contender twice, it counts as failed.

    Raises:
      UserError, LostError: a worker ended with this error.
    """
    for number in range(len(self._cores)):
      if number not in self._workers:
        self._start(number)
    while self._workers:
      time.sleep(_POLL)
      for number, worker in list(self._workers.items()):
        if (code := worker.poll()) is None:
          continue
        del self._workers[number]
        if code:
          if not (name := _signal(code)):
            raise self._error(number, code)
          self._record_crash(plan, number, worker.pid, name)
          self._start(number)

  def __exit__(self, *_: object) -> None:
    """Stops the workers, at their next step if they can be stopped there."""
    try:
      for worker in self._workers.values():
        worker.terminate()
      end = time.monotonic() + _GRACE
      for worker in self._workers.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
          worker.wait(max(end - time.monotonic(), 0))
    finally:  # also if Ctrl-C is pressed again
      for worker in self._workers.values():
        worker.kill()
        worker.wait()

  def _log(self, number: int) -> Path:
    return self._logs / f"worker_{number}.log"

  def _start(self, number: int, planned: int | None = None) -> None:
    log = self._log(number)
    self._starts[number] = log.stat().st_size if log.exists() else 0
    told = json.dumps(Worker(str(self._folder), len(self._cores), planned, self._until))
    descriptors = () if planned is None else (planned,)
    with pinned(self._cores[number]):
      self._workers[number] = child_process.start(log, None, descriptors, **{_MARK: told})

  def _error(self, number: int, code: int) -> UserError | LostError:
    """Returns the error that a worker printed before it ended with an exit code."""
    log = self._log(number)
    lines = log.read_bytes()[self._starts[number] :].decode(errors="replace").splitlines()
    if lines and lines[-1].startswith("error: "):
      sentence = lines[-1].removeprefix("error: ")
      return UserError(sentence) if code == 2 else LostError(sentence)
    return LostError(f"a worker ended unexpectedly with exit code {code}; see the end of {log}.")

  def _record_crash(self, plan: Plan, number: int, pid: int, name: str) -> None:
    """Counts a crash of the process ``pid``, which ended by a signal called ``name``."""
    missing = unfinished(plan, self._folder)  # the same worker may have finished others

    def crashed(cell: Cell) -> bool:  # another worker may have taken it over since
      holders = leases.holders(lease_of(self._folder, cell))
      return any(one.pid == pid and one.dead for one in holders)

    cell = next(filter(crashed, missing), None)
    key = cell.name if cell else ""
    self._crashes[key] += 1
    if self._crashes[key] < _CRASHES:
      return
    reason = (
      f"its process was ended by {name} {_CRASHES} times, possibly because the machine ran out of "
      f"memory; its output is in {self._log(number)}."
    )
    if cell is None:
      raise LostError(f"a worker had no contender yet, and {reason}")
    if lease := leases.take(lease_of(self._folder, cell)):
      with lease:
        write_failure(plan, cell, self._folder, reason)


def _signal(code: int) -> str:
  """Returns the name of the signal that ended a process; empty if it exited by itself."""
  number = -code if code < 0 else code - 128  # Python exits with 128 + SIGTERM after its cleanup
  stopped = code < 0 or number in (signal.SIGINT, signal.SIGTERM)
  return signal.Signals(number).name if stopped else ""


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
  """Makes processes that are started in the block inherit these CPU cores."""
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)
