"""Trains the contenders of a plan in this process or in a team of workers."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import jax
from filelock import FileLock, Timeout

from fedjax_norm.errors import UserError
from fedjax_norm.study.planning.plan import LOCK, PLAN, Plan, read_plan
from fedjax_norm.study.running import progress, workers


def number_of_workers(given: int | None, most: int) -> int:
  """Returns the number of processes that train side by side on this machine.

  Args:
    given: ``--workers``; None for one for each CPU core, or for one with an accelerator.
    most: the number of contenders, above which workers would have nothing to do.

  Raises:
    UserError: there is an accelerator, and several workers would share it.
  """
  if given == 1:
    return 1
  if not _on_cpu():
    if given:
      raise UserError(
        f"--workers is {given}, but workers share no accelerator; drop --workers, and for several "
        "GPUs start the command once for each with CUDA_VISIBLE_DEVICES and one --workdir."
      )
    return 1
  return given or min(len(os.sched_getaffinity(0)), most)


def train(
  folder: Path,
  make_plan: Callable[[], Plan],
  announce: Callable[[Plan], None],
  count: int,
  show: bool,
  until: float | None = None,
  select: Callable[[Plan], Plan] = lambda plan: plan,
  noun: str = "contenders",
) -> Plan:
  """Trains all contenders of a plan and returns it; those that failed before are tried again.

  Args:
    folder: folder of the study.
    make_plan: makes or reads the plan in this process; workers make it with their command line.
    announce: prints the plan.
    count: number of workers; 1 trains in this process.
    show: whether to show the progress.
    until: time at which the work stops, to be resumed by a later call; None for no limit.
    select: returns the plan with only the contenders that are to be trained.
    noun: what the progress calls the contenders.

  Raises:
    UserError: the options contradict each other, or the data cannot be read.
    LostError: a worker crashed.
  """
  failed = workers.failed(folder)
  with _leaves_no_empty(folder), contextlib.ExitStack() as stack:
    if count == 1:
      plan = select(make_plan())
    else:
      team = stack.enter_context(workers.Team(folder, count, until))
      plan = select(read_plan(folder))

    def work() -> None:
      if count == 1:
        workers.work(plan, folder, until)
      else:
        team.work(plan)

    names = {cell.name for cell in plan.cells}
    workers.try_again(folder, [cell for cell in failed if cell.name in names])
    announce(plan)
    with progress.shown(plan, folder, show, noun):
      workers.finish(plan, folder, work, until)
    return plan


def _on_cpu() -> bool:
  """Returns whether JAX computes on the CPU; starts JAX only if it may have an accelerator."""
  plugins = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
  if os.environ.get("JAX_PLATFORMS") == "cpu" or not (plugins or entry_points(group="jax_plugins")):
    return True
  return jax.default_backend() == "cpu"


@contextlib.contextmanager
def keeps(folder: Path) -> Iterator[None]:
  """Makes the sentence about Ctrl-C or SIGTERM name the study's folder."""
  try:
    yield
  except KeyboardInterrupt as stop:
    stop.__notes__ = [f"{folder} keeps what is done, and the same --workdir resumes from it"]
    raise


@contextlib.contextmanager
def _leaves_no_empty(folder: Path) -> Iterator[None]:
  """Deletes a folder that the block made, if a UserError leaves no plan in it."""
  existed = folder.exists()
  try:
    yield
  except UserError:
    own = {LOCK, "logs"}
    with contextlib.suppress(OSError, Timeout):  # another process makes a plan in it
      if not existed and set(os.listdir(folder)) <= own:
        with FileLock(folder / LOCK, timeout=0):
          shutil.rmtree(folder)
    raise


def checked_folder(folder: Path, what: str) -> Path:
  """Returns the folder of a study, which may not exist yet.

  Raises:
    UserError: it contains other files than a study's.
  """
  known = {PLAN, f"{PLAN}.tmp", LOCK, "logs"}
  if folder.is_dir() and (names := set(os.listdir(folder))) and PLAN not in names and names - known:
    raise UserError(
      f"{folder} is no {what} because it contains files but no {PLAN}; pass an empty or new "
      "--workdir."
    )
  return folder
