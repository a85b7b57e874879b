"""Runs a study: makes the plan, trains the contenders, and writes and prints the answer."""

import contextlib
import dataclasses
import datetime
import importlib.util
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import jax
from filelock import FileLock, Timeout

from fedjax_norm import client_mapping
from fedjax_norm.cli import app
from fedjax_norm.errors import UserError
from fedjax_norm.study import answer
from fedjax_norm.study.planning import axes, plan_text
from fedjax_norm.study.planning.config import FLAGS, StudyConfig
from fedjax_norm.study.planning.plan import PLAN, Plan, load_or_make, read_plan
from fedjax_norm.study.running import progress, workers
from fedjax_norm.training.storage.atomic_files import make_folder
from fedjax_norm.training.terminal.tables import summary_table


def main(config: StudyConfig) -> None:
  """Runs a study or a worker of it, or prints what the study would do."""
  if worker := workers.this_worker():
    plan = _make_plan(
      dataclasses.replace(config, workers=worker.number_of_workers), Path(worker.folder)
    )
    worker.report_plan()
    workers.work(plan, Path(worker.folder))
    return
  config = dataclasses.replace(config, workers=_number_of_workers(config))
  if config.dry_run:
    _dry_run(config)
  else:
    _run(config)


def _dry_run(config: StudyConfig) -> None:
  """Prints the contenders and the expected time; of a study in ``--workdir``, of what is left."""
  folder = _folder(config)
  with workers.pinned(workers.cores(config.workers or 1)[0]):  # times are those of a worker
    plan = _make_plan(config, folder, store=False)
  goes_on = (folder / PLAN).exists()
  _print_plan(plan, folder if goes_on else None, goes_on)
  print(f"\n{plan_text.table(plan)}")


def _run(config: StudyConfig) -> None:
  folder = _folder(config)
  goes_on = (folder / PLAN).exists()
  failed = workers.failed(folder)
  with _keeps(folder), _leaves_no_empty(folder):
    if config.workers == 1:
      plan = _make_plan(config, folder)
      workers.try_again(folder, failed)
      _print_plan(plan, folder, goes_on)
      with progress.shown(plan, folder, config.progress):
        workers.finish(plan, folder, lambda: workers.work(plan, folder))
    else:
      with workers.Team(folder, config.workers or 1) as team:
        plan = read_plan(folder)
        workers.try_again(folder, failed)
        _print_plan(plan, folder, goes_on)
        with progress.shown(plan, folder, config.progress):
          workers.finish(plan, folder, lambda: team.work(plan))
    print(f"\n{answer.write(folder, config.target)}")


def _make_plan(config: StudyConfig, folder: Path, store: bool = True) -> Plan:
  """Makes the plan, which starts JAX, or reads it from ``folder``; writes only with ``store``."""
  # One device by default, so that the results do not depend on the number of workers.
  config = dataclasses.replace(config, host_devices=config.host_devices or 1)
  client_mapping.use_host_devices(config.host_devices or 1)
  app.set_compilation_cache(config.compilation_cache)
  if not store:
    return load_or_make(config, folder, store=False)
  make_folder(folder)
  with FileLock(folder / answer.LOCK):  # machines that start together share one plan
    return load_or_make(config, folder)


def _print_plan(plan: Plan, folder: Path | None, goes_on: bool) -> None:
  """Prints the plan; of a study that goes on in ``folder``, also what is done and left."""
  pairs = plan_text.how(plan)
  if goes_on and folder:
    pairs |= progress.what_is_left(plan, folder)
  else:
    pairs["expected time"] = plan_text.expected_time(plan)
  pairs |= {"folder": str(folder)} if folder else {}
  print(summary_table("study", [(k, textwrap.fill(v, 84)) for k, v in pairs.items()]), flush=True)
  if not goes_on and (note := plan_text.excess(plan)):
    print(note, flush=True)


def _number_of_workers(config: StudyConfig) -> int:
  """Returns ``--workers`` or its default.

  Raises:
    UserError: there is an accelerator, and several workers would share it.
  """
  if config.workers == 1:
    return 1
  if not _on_cpu():
    if config.workers:
      raise UserError(
        f"--workers is {config.workers}, but workers share no accelerator; drop --workers, and for "
        "several GPUs start the command once for each with CUDA_VISIBLE_DEVICES and one --workdir."
      )
    return 1
  lists = config.norms, config.algorithms, config.local_steps, config.partitions
  return config.workers or min(len(os.sched_getaffinity(0)), len(axes.combine(*lists)))


def _on_cpu() -> bool:
  """Returns whether JAX computes on the CPU; starts JAX only if it may have an accelerator."""
  plugins = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
  if os.environ.get("JAX_PLATFORMS") == "cpu" or not (plugins or entry_points(group="jax_plugins")):
    return True
  return jax.default_backend() == "cpu"


def _folder(config: StudyConfig) -> Path:
  """Returns ``--workdir``, or a path ``runs/study-TIME-DATA`` that does not exist.

  Raises:
    UserError: ``--workdir`` contains other files than a study's.
  """
  if not config.workdir:
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return app.unused(Path("runs") / f"study-{time}-{config.data.partition(':')[0]}")
  folder = Path(config.workdir).expanduser()
  known = {PLAN, f"{PLAN}.tmp", answer.LOCK, "logs"}
  if folder.is_dir() and (names := set(os.listdir(folder))) and PLAN not in names and names - known:
    raise UserError(
      f"{folder} is no study's folder because it contains files but no {PLAN}; pass an empty or "
      "new --workdir."
    )
  return folder


@contextlib.contextmanager
def _keeps(folder: Path) -> Iterator[None]:
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
    own = {answer.LOCK, "logs"}
    with contextlib.suppress(OSError, Timeout):  # another process makes a plan in it
      if not existed and set(os.listdir(folder)) <= own:
        with FileLock(folder / answer.LOCK, timeout=0):
          shutil.rmtree(folder)
    raise


def _refuse_options_of_runs(words: Sequence[str]) -> None:
  """Exits with one sentence if a flag is an option of single runs that a study chooses itself."""
  for word in words:
    name = word.lstrip("-").partition("=")[0]
    flag = axes.CHOSEN.get(name, f"--{name}")
    if word.startswith("-") and flag != f"--{name}":
      sys.exit(app.print_error(f"a study has no --{name}; give {flag}.", 2))


def launch() -> None:
  """Runs ``experiments.study`` with the flags of the command line, and exits."""
  _refuse_options_of_runs(sys.argv[1:])
  app.run_plain(main, FLAGS)
