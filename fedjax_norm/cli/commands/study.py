"""Which norm, algorithm and communication: ``python -m experiments.study --data=folder:DIR``.

Trains each norm of --norms with each algorithm of --algorithms and each number of --local_steps,
and writes a ranked table, a recommendation in words and report.html into --workdir. Learning rates
are searched for each contender on held-out training examples, and all contenders take the same
number of local steps, so that a norm loses by itself and not by its learning rate.

The same command with the same --workdir goes on after a stop and reuses what is done, also with
more norms, algorithms, local steps, partitions or seeds. Any number of machines that reach the
folder can run the command at the same time; they divide the contenders. On a machine with several
GPUs, start one process per GPU: CUDA_VISIBLE_DEVICES=0 python -m experiments.study --workdir=DIR
and so on.
"""

import dataclasses
import datetime
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from fedjax_norm import client_mapping
from fedjax_norm.cli import app
from fedjax_norm.cli.compilation_cache import set_compilation_cache
from fedjax_norm.study import answer
from fedjax_norm.study.planning import axes, plan_text
from fedjax_norm.study.planning.config import FLAGS, StudyConfig
from fedjax_norm.study.planning.plan import LOCK, PLAN, Plan, load_or_make
from fedjax_norm.study.running import crew, progress, workers
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
  lists = config.norms, config.algorithms, config.local_steps, config.partitions
  count = crew.number_of_workers(config.workers, len(axes.combine(*lists)))
  config = dataclasses.replace(config, workers=count)
  if config.dry_run:
    _dry_run(config)
  else:
    _run(config)


def _dry_run(config: StudyConfig) -> None:
  """Prints the contenders and the expected time; of a study in ``--workdir``, of what is left."""
  folder = _folder(config)
  goes_on = _goes_on(config, folder)
  with workers.pinned(workers.cores(config.workers or 1)[0]):  # times are those of a worker
    plan = _make_plan(config, folder, store=False)
  _print_plan(plan, folder if goes_on else None, goes_on)
  print(f"\n{plan_text.table(plan)}")


def _run(config: StudyConfig) -> None:
  folder = _folder(config)
  goes_on = _goes_on(config, folder)
  with crew.keeps(folder):
    crew.train(
      folder,
      lambda: _make_plan(config, folder),
      lambda plan: _print_plan(plan, folder, goes_on),
      config.workers or 1,
      config.progress,
    )
    print(f"\n{answer.write(folder, config.target)}")


def _goes_on(config: StudyConfig, folder: Path) -> bool:
  """Returns whether the folder has a plan; says so if making one takes a while."""
  goes_on = (folder / PLAN).exists()
  if not goes_on and not config.steps:
    print("measuring how long local steps take on this machine, to plan the study ...", flush=True)
  return goes_on


def _make_plan(config: StudyConfig, folder: Path, store: bool = True) -> Plan:
  """Makes the plan, which starts JAX, or reads it from ``folder``; writes only with ``store``."""
  # One device by default, so that the results do not depend on the number of workers.
  config = dataclasses.replace(config, host_devices=config.host_devices or 1)
  client_mapping.use_host_devices(config.host_devices or 1)
  set_compilation_cache(config.compilation_cache)
  if not store:
    return load_or_make(config, folder, store=False)
  make_folder(folder)
  with FileLock(folder / LOCK):  # machines that start together share one plan
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


def _folder(config: StudyConfig) -> Path:
  """Returns ``--workdir``, or a path ``runs/study-TIME-DATA`` that does not exist.

  Raises:
    UserError: ``--workdir`` contains other files than a study's.
  """
  if not config.workdir:
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return app.unused(Path("runs") / f"study-{time}-{config.data.partition(':')[0]}")
  return crew.checked_folder(Path(config.workdir).expanduser(), "study's folder")


def _refuse_options_of_runs(words: Sequence[str]) -> None:
  """Exits with one sentence if a flag is an option of single runs that a study chooses itself."""
  for word in words:
    name = word.lstrip("-").partition("=")[0]
    flag = axes.CHOSEN.get(name, f"--{name}")
    if word.startswith("-") and flag != f"--{name}":
      sys.exit(app.print_error(f"a study has no --{name}; give {flag}.", 2))


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  _refuse_options_of_runs(sys.argv[1:])
  app.run_plain(main, FLAGS, __doc__)
