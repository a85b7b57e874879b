"""Compares the accuracy of the main command on an accelerator and on the CPU, over three seeds.

``python -m benchmarks.accuracy --output=DIR`` runs the README's first command with each seed on
JAX's default platform and on the CPU, all at once, and writes the table to ``DIR/accuracy.md``.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import app, flags

from benchmarks.measure import ROOT
from benchmarks.systems import last_line
from fedjax_norm.cli.app import guard, parse_flags, refuse_positional
from fedjax_norm.errors import UserError

_COMMAND = ("-m", "experiments.fedavg", "--norm=fixbn", "--clients=10", "--noprogress")
# Several processes share the accelerator's memory.
_PLATFORMS: dict[str, dict[str, str]] = {
  "JAX's default platform": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
  "CPU": {"JAX_PLATFORMS": "cpu"},
}


def start(folder: Path, seed: int, variables: Mapping[str, str], extra: str) -> subprocess.Popen:
  """Starts a run in a new folder; ``extra`` has further flags, separated by spaces."""
  folder.mkdir(parents=True)
  run = [f"--seed={seed}", f"--workdir={folder.absolute() / 'run'}", *extra.split()]
  with (folder / "log.txt").open("w") as log:
    return subprocess.Popen(
      [sys.executable, *_COMMAND, *run],
      env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
      cwd=ROOT,
      stdout=log,
      stderr=subprocess.STDOUT,
    )


def accuracy(folder: Path) -> float | str:
  """Returns the final test accuracy of a finished run in percent, or why there is none."""
  summary = folder / "run" / "summary.json"
  if not summary.exists():
    return f"failed: {last_line((folder / 'log.txt').read_text())}"
  return 100 * json.loads(summary.read_text())["top1"]


def table(found: Mapping[tuple[str, int], float | str], seeds: int) -> str:
  """Returns the table of the accuracies by platform and seed, of runs that have ended."""
  lines = [f"| accuracy, % | {' | '.join(f'seed {seed}' for seed in range(seeds))} | mean |"]
  lines += ["|" + " --- |" * (seeds + 2)]
  for platform in _PLATFORMS:
    cells = [found.get((platform, seed), "not ended") for seed in range(seeds)]
    values = [cell for cell in cells if isinstance(cell, float)]
    mean = f"{statistics.mean(values):.2f}" if len(values) == seeds else ""
    shown = [f"{cell:.2f}" if isinstance(cell, float) else cell for cell in cells]
    lines.append(f"| {' | '.join([platform, *shown, mean])} |")
  return "\n".join(lines) + "\n"


def compare(output: Path, seeds: int, extra: str) -> None:
  """Runs the command on each platform with each seed, and writes the table after each run.

  Raises:
    UserError: there is no seed, or the folder has the runs of an earlier comparison.
  """
  if seeds < 1:
    raise UserError(f"there is nothing to run; give at least one seed, not {seeds}.")
  runs = [(platform, seed) for seed in range(seeds) for platform in _PLATFORMS]
  folders = {run: output / f"{list(_PLATFORMS).index(run[0])}_{run[1]}" for run in runs}
  if any(folder.exists() for folder in folders.values()):
    raise UserError(f"{output} has the runs of an earlier comparison; give another --output.")
  processes: list[subprocess.Popen] = []
  found: dict[tuple[str, int], float | str] = {}
  try:
    for run in runs:
      processes.append(start(folders[run], run[1], _PLATFORMS[run[0]], extra))
    for run, process in zip(runs, processes, strict=True):
      process.wait()
      found[run] = accuracy(folders[run])
      (output / "accuracy.md").write_text(table(found, seeds))
  finally:
    for process in processes:
      process.kill()
  print(table(found, seeds))


def main(argv: Sequence[str]) -> None:
  """Runs the comparison of the command line."""

  def work() -> None:
    refuse_positional(argv[1:])
    compare(Path(flags.FLAGS.output), flags.FLAGS.seeds, flags.FLAGS.extra)

  sys.exit(guard(work))


if __name__ == "__main__":
  flags.DEFINE_string("output", "benchmarks/results/accuracy", "The folder of the runs.")
  flags.DEFINE_integer("seeds", 3, "Number of seeds, from 0.")
  flags.DEFINE_string("extra", "", "Further flags of the command, separated by spaces.")
  app.run(main, flags_parser=parse_flags)
