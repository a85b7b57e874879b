"""Runs that are killed at random moments end with the bits of an uninterrupted run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.binaries import PYTHONPATH, SMALL, free_port
from helpers.run_bits import parameters, read

KILLS = int(os.environ.get("RUN_KILLS", "1"))
_LONG = ("--rounds=120", "--eval_every=5")
COMMANDS = {
  "fedavg": ("fedavg", "--norm=fixbn", "--cohort=3", *_LONG),
  "split": ("split", "--norm=bn", "--host_devices=1", *_LONG),
  "step by step": (
    *("split", "--step_by_step", "--norm=gn", "--host_devices=1"),
    *("--rounds=24", "--eval_every=2"),
  ),
  "seeds": ("fedavg", "--norm=bn", "--seeds=2", "--rounds=60", "--eval_every=5"),
  "two processes": ("ssgd", "--norm=bn", "--num_processes=2", "--host_devices=1", *_LONG),
}
if "RUN_KILLS" in os.environ:  # more kills, and of more methods, than each change needs
  COMMANDS |= {
    "scaffold": ("run", "--method=scaffold", "--norm=bn", "--cohort=3", *_LONG),
    "ssgd": ("ssgd", "--norm=sync_bn", *_LONG),
    "asgd": ("asgd", "--norm=gn", "--host_devices=1", *_LONG),
    "decentralized": ("decentralized", "--algorithm=gaia", "--norm=bn", *_LONG),
  }


class Run:
  """A command with a run folder, of one or several processes."""

  def __init__(self, command, workdir):
    self.command, self.workdir = command, workdir

  def start(self):
    binary, *options = self.command
    count = 2 if "--num_processes=2" in options else 1
    address = f"--coordinator_address=localhost:{free_port()}"
    process_flags = [[address, f"--process_id={i}"] for i in range(count)] if count > 1 else [[]]
    command = [sys.executable, "-m", f"experiments.{binary}", *SMALL, *options]
    return [
      subprocess.Popen(
        [*command, *flags, f"--workdir={self.workdir}"],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      for flags in process_flags
    ]

  def finish(self):
    for process in self.start():
      _, err = process.communicate()
      assert process.returncode == 0, err

  def rows(self):
    return sum((part / "metrics.csv").read_bytes().count(b"\n") for part in parts(self.workdir))

  def kill(self, chance):
    """Kills some processes a few rows and a moment after the start; waits until all have ended."""
    processes, last_row = self.start(), self.rows() + chance.randint(1, 4)
    while self.rows() < last_row and all(process.poll() is None for process in processes):
      time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))
    for process in chance.sample(processes, chance.randint(1, len(processes))):
      process.send_signal(signal.SIGKILL)
    for process in processes:
      _, err = process.communicate()
      assert "Traceback" not in err


def parts(folder: Path) -> list[Path]:
  """Returns the run folder or the folders of its seeds, if they have rows."""
  return [
    part for part in (folder, *sorted(folder.glob("seed_*"))) if (part / "metrics.csv").exists()
  ]


def bits(folder: Path) -> list[object]:
  """Returns all results of a run that do not depend on time."""
  results: list[object] = []
  for part in parts(folder):
    summary = json.loads((part / "summary.json").read_text())
    results += [read(part), parameters(part), (part / "model.msgpack").read_bytes()]
    results += [{name: value for name, value in summary.items() if "seconds" not in name}]
  return results


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_runs_resume_to_the_same_bits(name, tmp_path):
  complete, killed = (Run(COMMANDS[name], tmp_path / part) for part in ("complete", "killed"))
  complete.finish()
  chance = random.Random(name)
  for _ in range(KILLS):
    killed.kill(chance)
  killed.finish()
  assert len(bits(killed.workdir)) == 4 * (2 if name == "seeds" else 1)
  assert bits(killed.workdir) == bits(complete.workdir)
