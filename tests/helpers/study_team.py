"""A program with workers like those of a study, whose contenders do what their names say.

The command line is the study's folder and the contenders; it prints ``planned`` when they start.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from fedjax_norm.cli import app
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options
from fedjax_norm.study.running import workers
from fedjax_norm.training.storage.atomic_files import write_json


def train_cell(plan, cell, folder, progress):
  """Writes the outcome of a contender, unless its name says that this fails."""
  tried = folder / f"tried_{cell.name}"
  again = tried.exists()
  tried.touch()
  progress(0.5)
  if cell.name == "crashes" or (cell.name == "crashes_once" and not again):
    os.kill(os.getpid(), signal.SIGKILL)
  if cell.name == "slow":
    time.sleep(600)
  write_json(
    folder / "cells" / f"{cell.name}.json", {"seeds": 1, "cores": len(os.sched_getaffinity(0))}
  )


def write_failure(plan, cell, folder, reason):
  """Writes the outcome of a contender whose workers crash."""
  write_json(folder / "cells" / f"{cell.name}.json", {"seeds": 1, "reason": reason})


def main(config, path, *names):
  """Runs the contenders on two workers; a contender ``refused`` makes the plan fail."""
  folder = Path(path)
  cells = [SimpleNamespace(name=name, seconds=1.0) for name in names]
  plan = SimpleNamespace(cells=cells, seeds=1)
  if worker := workers.this_worker():
    if "refused" in names:
      raise UserError("the plan is refused.")
    worker.report_plan()
    workers.work(plan, folder)
    return
  (folder / "cells").mkdir(exist_ok=True)
  with workers.Team(folder, 2) as team:
    print("planned", flush=True)
    workers.finish(plan, folder, lambda: team.work(plan))


if __name__ == "__main__":
  sys.path.insert(0, os.getcwd())
  workers.train_cell, workers.write_failure = train_cell, write_failure
  app.run_plain(main, Options, __doc__, positional=True)
