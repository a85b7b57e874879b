"""Measures what a study saves over single commands: ``python -m benchmarks.study``.

The runs of one contender, the search for its learning rate and the final runs, train twice: in a
study, which trains them in one process with one compiled program, and with a command of
``experiments.run`` for each rate, length and seed. Neither uses saved programs. Options of
``experiments.study`` replace those of ``_STUDY``, which stay those of one contender.
"""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedjax_norm.study.planning.plan import read_plan

_STUDY = (
  *("--data=digits", "--norms=gn", "--algorithms=fedavg", "--local_steps=10", "--steps=80"),
  *("--lrs=0.03,0.1", "--seeds=2"),
)
_BOTH = ("--nocompilation_cache", "--noprogress")


def run(module: str, *words: str) -> float:
  """Runs a command to its end and returns the seconds that it took."""
  begun = time.perf_counter()
  command = [sys.executable, "-m", f"experiments.{module}", *words, *_BOTH]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  return time.perf_counter() - begun


def commands(folder: Path) -> list[list[str]]:
  """Returns the options of ``experiments.run`` for each run of a study's only contender."""
  plan = read_plan(folder)
  (cell,) = plan.cells
  outcome = json.loads((folder / "cells" / f"{cell.name}.json").read_text())
  drop = ("--lr=", "--rounds=", "--seed=", "--seeds=")
  shared = [word for word in shlex.split(outcome["command"])[3:] if not word.startswith(drop)]
  search = outcome["tuning"]
  runs = [(one["lr"], plan.rounds(cell, one["steps"]), plan.seed) for one in search["trials"]]
  seeds = range(plan.seed, plan.seed + plan.seeds)
  runs += [(search["lr"], plan.rounds(cell, plan.effort), seed) for seed in seeds]
  return [[*shared, f"--lr={lr}", f"--rounds={n}", f"--seed={seed}"] for lr, n, seed in runs]


def main() -> None:
  """Prints the seconds of both ways."""
  with tempfile.TemporaryDirectory() as path:
    folder = Path(path, "study")
    study = run("study", *_STUDY, *sys.argv[1:], "--workers=1", f"--workdir={folder}")
    single = [
      run("run", *words, f"--workdir={path}/run_{number}")
      for number, words in enumerate(commands(folder))
    ]
  print(f"the study, with its report: {study:.0f} s")
  print(f"{len(single)} runs as commands: {sum(single):.0f} s, {sum(single) / study:.1f} times")


if __name__ == "__main__":
  main()
