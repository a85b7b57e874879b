"""Studies of several processes: killed at random, or started twice in one folder."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers.binaries import PYTHONPATH

COMMAND = (
  *(sys.executable, "-m", "experiments.study", "--workers=2", "--noprogress"),
  *("--data=synthetic:classes=4,train=64,test=32,size=6", "--clients=4", "--batch_size=8"),
  *("--model=tiny", "--norms=bn,gn", "--algorithms=fedavg", "--local_steps=2"),
  *("--steps=40", "--lrs=0.03,0.1", "--seeds=2"),
)
KILLS = int(os.environ.get("STUDY_KILLS", "2"))


def start(folder, *options):
  """Starts the study with the cache of compiled programs that users have, which outlives kills."""
  environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "PYTHONW"))}
  cache = str(folder.parents[1] / "user")
  return subprocess.Popen(
    [*COMMAND, f"--workdir={folder}", *options],
    env={**environment, "XDG_CACHE_HOME": cache, "PYTHONPATH": PYTHONPATH},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  out, err = process.communicate()
  assert (process.returncode, err) == (0, "")
  return out


def table(folder):
  """Returns the rows of results.json without times, paths and commands (with the cores used)."""
  rows = json.loads((folder / "results.json").read_text())["contenders"]
  return [
    {
      name: value
      for name, value in row.items()
      if not re.search("seconds|path|folder|command", name)
    }
    for row in rows
  ]


def workers_of(process):
  found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
  return [int(pid) for pid in found.stdout.split()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
  """Returns the folder of a study that two processes shared undisturbed, and what they printed."""
  folder = tmp_path_factory.mktemp("shared") / "study"
  both = [start(folder, "--workers=1") for _ in range(2)]
  return folder, {process.pid: finish(process) for process in both}


@pytest.mark.long
def test_two_processes_share_a_study(shared):
  folder, answers = shared
  # The plan above the table tells what was done when the process came, and for how many workers.
  one, other = (answer[answer.index("#  contender") :] for answer in answers.values())
  assert one == other
  holders = {json.loads(file.read_text())["pid"] for file in (folder / "leases").glob("*/*")}
  assert holders == set(answers)


@pytest.mark.long
def test_a_study_killed_at_random_ends_with_the_same_table(shared, tmp_path):
  """Kills the main process or, only once in its life, a worker."""
  chance, kills = random.Random(0), 0
  while kills < KILLS:
    with start(tmp_path / "study") as main:
      time.sleep(chance.uniform(8, 25))
      if chance.random() < 0.5 and (pids := workers_of(main)):
        os.kill(chance.choice(pids), signal.SIGKILL)
        kills += 1
        time.sleep(chance.uniform(0, 10))
      main.kill()
      _, err = main.communicate()
      kills += 1
    assert "Traceback" not in err
  finish(start(tmp_path / "study"))
  assert table(tmp_path / "study") == table(shared[0])
