"""Runs of several processes: how they end, well or because one of them dies."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from experiments_helpers import ROOT

from experiments import processes
from fedjax_norm.errors import UserError
from fedjax_norm.training import distributed
from fedjax_norm.training.distributed import Place

HEARTBEAT = 5
# As the stated 30 seconds stand to the heartbeat of 20 of a real run.
BOUND = HEARTBEAT + 10
LOST = (
  "error: process {} of {} ended because another process of the run died or could not be reached; "
  "start all processes again with the same --workdir to go on from the last checkpoint"
)
AGAIN = "start all processes again with the same --workdir to go on from the last checkpoint."


class Ended(NamedTuple):
  code: int
  out: str
  err: str
  """Without the warning that every process logs."""
  at: float
  """When it ended, as of ``time.time``."""


def free_port() -> int:
  with socket.create_server(("127.0.0.1", 0)) as server:
    return server.getsockname()[1]


class Run:
  """Processes of ``process_steps.py`` on this machine, one for each act."""

  def __init__(self, folder: Path, *acts: str, num_processes: int | None = None, long: bool = True):
    self.folder = folder
    environment = {
      **os.environ,
      "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
      "HEARTBEAT": str(HEARTBEAT),
      "INITIALIZATION": "60",
      **({"LONG": "1"} if long else {}),
    }
    self._files = [
      [open(folder / f"{name}{i}", "w+") for name in ("out", "err")] for i in range(len(acts))
    ]
    port = free_port()
    self.processes = [
      subprocess.Popen(
        [
          sys.executable,
          str(ROOT / "tests" / "process_steps.py"),
          f"--coordinator_address=127.0.0.1:{port}",
          f"--num_processes={num_processes or len(acts)}",
          f"--process_id={i}",
          "--workdir=run",
          "--host_devices=2",
        ],
        env={**environment, "ACT": act},
        cwd=folder,
        stdout=out,
        stderr=err,
      )
      for i, (act, (out, err)) in enumerate(zip(acts, self._files, strict=True))
    ]

  def __enter__(self) -> "Run":
    return self

  def __exit__(self, *_) -> None:
    for process in self.processes:
      process.kill()  # and its child with it
      process.wait()
    for file in sum(self._files, []):
      file.close()

  def ended(self, timeout: float = 100) -> list[Ended]:
    """Waits for all of them."""
    at: dict[int, float] = {}
    deadline = time.monotonic() + timeout
    while len(at) < len(self.processes) and time.monotonic() < deadline:
      for i, process in enumerate(self.processes):
        if i not in at and process.poll() is not None:
          at[i] = time.time()
      time.sleep(0.05)
    assert len(at) == len(self.processes), f"only {sorted(at)} ended"
    return [
      Ended(process.returncode, self._read(f"out{i}"), self._read(f"err{i}"), at[i])
      for i, process in enumerate(self.processes)
    ]

  def log(self, i: int) -> str:
    return self._read(f"run.logs/process_{i}.log")

  def _read(self, name: str) -> str:
    text = (self.folder / name).read_text()
    return re.sub(r"^W\d.*\] a warning\n", "", text, count=1, flags=re.MULTILINE)


def gone(pid: int) -> bool:
  """Whether a process has ended, be it reaped or not."""
  try:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
  except (FileNotFoundError, ProcessLookupError):
    return True


def number(name: str, out: str) -> float:
  return float(re.search(rf"^{name} ([0-9.]+)$", out, re.MULTILINE)[1])


def check_lost(run: Run, ended: list[Ended], survivors: tuple[int, ...], death: float) -> None:
  """Each survivor says the one sentence and nothing else, in time."""
  for i in survivors:
    assert ended[i].code == 1
    told = re.escape(LOST.format(i, len(ended)))
    log = re.escape(str(run.folder / "run.logs" / f"process_{i}.log"))
    assert re.fullmatch(rf"{told}(\.| \({log} has what the runtime said\)\.)\n", ended[i].err)
    assert ended[i].at - death < BOUND


def test_all_end_well_and_silently(tmp_path):
  with Run(tmp_path, "well", "well", long=False) as run:
    ended = run.ended()
    for i, process in enumerate(ended):
      assert (process.code, process.err) == (0, "")
      lines = process.out.splitlines()
      # Two processes of two devices: 4 * step + 0 + 1 + 2 + 3.
      sums = [f"sum {4 * step + 6}" for step in range(8)]
      assert [line for line in lines if line.startswith("sum")] == sums
      assert lines[-1] == ("main" if i == 0 else "other")
      assert len(lines) == 11  # with the child's id and the act
      assert "noise of the runtime\n" in run.log(i)
      assert "chatter of the runtime\n" in run.log(i)
      assert "a warning" in (tmp_path / f"err{i}").read_text()
    assert not (tmp_path / "run").exists()  # nothing is put where a run folder must be empty


def test_a_killed_process_ends_the_others(tmp_path):
  with Run(tmp_path, "well", "well", "kill") as run:
    ended = run.ended()
    check_lost(run, ended, (0, 1), number("acts at", ended[2].out))
    assert ended[2].code == 1
    assert ended[2].err.startswith("error: process 2 of 3 was ended by SIGKILL")
    assert ended[2].err.endswith(f"{AGAIN}\n")


def test_a_killed_coordinator_ends_the_others_and_a_killed_supervisor_its_child(tmp_path):
  with Run(tmp_path, "kill_parent", "well", "well") as run:
    ended = run.ended()
    death = number("acts at", ended[0].out)
    check_lost(run, ended, (1, 2), death)
    assert ended[0].code == -9
    assert gone(int(number("child", ended[0].out)))


@pytest.mark.parametrize(
  ("act", "code", "said"),
  [
    ("refuse", 2, "error: a file is missing here; put it there.\n"),
    ("term_parent", 143, "error: process 1 of 2 was stopped by SIGTERM; what was saved stays"),
    ("interrupt_parent", 130, "error: interrupted; what was saved stays"),
    ("fail", 1, "Traceback"),
  ],
)
def test_a_process_that_ends_by_itself_ends_the_others(tmp_path, act, code, said):
  with Run(tmp_path, "well", act) as run:
    ended = run.ended()
    assert ended[1].code == code
    assert ended[1].err.startswith(said)
    assert ended[1].at - number("acts at", ended[1].out) < 5  # it does not wait for the others
    check_lost(run, ended, (0,), number("acts at", ended[1].out))
