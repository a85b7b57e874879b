"""Runs of several processes: normal end, and death of a process."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from helpers.binaries import PYTHONPATH, ROOT, free_port

from fedjax_norm.errors import LostError, UserError
from fedjax_norm.training.placement import processes
from fedjax_norm.training.placement.processes import ProcessInfo

HEARTBEAT = 4
# A real run promises 30 seconds with a heartbeat of 20 seconds.
BOUND = HEARTBEAT + 10
LOST = (
  "error: process {} of {} ended because another process of the run died or could not be reached; "
  "start all processes again with the same --workdir to resume from the last checkpoint"
)
AGAIN = "start all processes again with the same --workdir to resume from the last checkpoint."
PROCESS = ProcessInfo("localhost:1", 2, 1)


class Ended(NamedTuple):
  code: int
  out: str
  err: str
  """The error stream without the warning that every process logs."""
  at: float
  """The time of the end by ``time.time``."""


class Run:
  """Processes of ``process_steps.py`` on this machine, one per act."""

  def __init__(
    self,
    folder: Path,
    *acts: str,
    first_id: int = 0,
    num_processes: int | None = None,
    initialization: int = 60,
    long: bool = True,
  ):
    self.folder = folder
    environment = {
      **os.environ,
      "PYTHONPATH": PYTHONPATH,
      "HEARTBEAT": str(HEARTBEAT),
      "INITIALIZATION": str(initialization),
      **({"LONG": "1"} if long else {}),
    }
    self.port = free_port()
    self.processes = []
    for i, act in enumerate(acts):
      with open(folder / f"out{i}", "w") as out, open(folder / f"err{i}", "w") as err:
        command = [
          sys.executable,
          str(ROOT / "tests" / "helpers" / "process_steps.py"),
          f"--coordinator_address=127.0.0.1:{self.port}",
          f"--num_processes={num_processes or len(acts)}",
          f"--process_id={first_id + i}",
          "--workdir=run",
          "--host_devices=2",
        ]
        self.processes.append(
          subprocess.Popen(
            command, env={**environment, "ACT": act}, cwd=folder, stdout=out, stderr=err
          )
        )

  def __enter__(self) -> "Run":
    return self

  def __exit__(self, *_) -> None:
    for process in self.processes:
      process.kill()  # its child ends with it
      process.wait()

  def ended(self, timeout: float = 100) -> list[Ended]:
    """Waits for the end of all processes."""
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

  def notes(self, i: int) -> str:
    return self._read(f"notes{i}")

  def log(self, i: int) -> str:
    return self._read(f"run.logs/process_{i}.log")

  def _read(self, name: str) -> str:
    text = (self.folder / name).read_text()
    return re.sub(r"^W\d.*\] a warning\n", "", text, count=1, flags=re.MULTILINE)


def gone(pid: int) -> bool:
  """Returns whether a process has ended, reaped or not."""
  try:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
  except (FileNotFoundError, ProcessLookupError):
    return True


def number(name: str, notes: str) -> float:
  return float(re.search(rf"^{name} ([0-9.]+)$", notes, re.MULTILINE)[1])


def check_lost(run: Run, ended: list[Ended], survivors: tuple[int, ...], death: float) -> None:
  """Checks that each survivor prints only the error sentence, within ``BOUND`` seconds."""
  for i in survivors:
    assert ended[i].code == 1
    sentence = re.escape(LOST.format(i, len(ended)))
    log = re.escape(str(run.folder / "run.logs" / f"process_{i}.log"))
    assert re.fullmatch(rf"{sentence}(\.| \(output of the runtime is in {log}\)\.)\n", ended[i].err)
    assert ended[i].at - death < BOUND


@pytest.mark.host_devices
def test_all_processes_end_without_errors(tmp_path):
  with Run(tmp_path, "well", "well", long=False) as run:
    ended = run.ended()
    for i, process in enumerate(ended):
      assert (process.code, process.err) == (0, "")
      # Two processes with two devices: 4 * step + 0 + 1 + 2 + 3; process 0 prints for both.
      sums = [f"sum {4 * step + 6}" for step in range(8)]
      assert process.out.splitlines() == (sums if i == 0 else [])
      assert "noise of the runtime\n" in run.log(i)
      assert "chatter of the runtime\n" in run.log(i)
      assert "a warning" in (tmp_path / f"err{i}").read_text()
    assert not (tmp_path / "run").exists()  # a new run folder must be empty


@pytest.mark.long
@pytest.mark.host_devices
def test_a_killed_process_ends_the_others(tmp_path):
  with Run(tmp_path, "well", "well", "kill") as run:
    ended = run.ended()
    check_lost(run, ended, (0, 1), number("acts at", run.notes(2)))
    assert ended[2].code == 1
    assert ended[2].err.startswith("error: process 2 of 3 was ended by SIGKILL")
    assert ended[2].err.endswith(f"{AGAIN}\n")


@pytest.mark.long
@pytest.mark.host_devices
def test_a_killed_coordinator_ends_the_others_and_a_killed_supervisor_its_child(tmp_path):
  with Run(tmp_path, "kill_parent", "well") as run:
    ended = run.ended()
    death = number("acts at", run.notes(0))
    check_lost(run, ended, (1,), death)
    assert ended[0].code == -9
    assert gone(int(number("child", run.notes(0))))


@pytest.mark.long
@pytest.mark.parametrize(
  ("victim", "act", "code", "message"),
  [
    (1, "refuse", 2, "error: a file is missing here; put it there.\n"),
    (0, "term_parent", 143, "error: stopped by SIGTERM.\n"),
  ],
)
@pytest.mark.host_devices
def test_a_process_that_ends_early_ends_the_other(tmp_path, victim, act, code, message):
  with Run(tmp_path, *[act if i == victim else "well" for i in range(2)]) as run:
    ended = run.ended()
    death = number("acts at", run.notes(victim))
    assert ended[victim].code == code
    assert ended[victim].err.startswith(message)
    assert ended[victim].at - death < BOUND  # it does not wait for the other
    check_lost(run, ended, (1 - victim,), death)


@pytest.mark.long
@pytest.mark.host_devices
def test_no_coordinator_at_the_address(tmp_path):
  with Run(tmp_path, "well", first_id=1, num_processes=2, initialization=1) as run:
    (ended,) = run.ended()
    assert ended.code == 1
    assert ended.err.startswith("error: process 1 of 2 did not meet the others at 127.0.0.1:")
    assert ended.err.count("\n") == 1
    assert "step" not in ended.out


@pytest.mark.host_devices
def test_a_second_interrupt_ends_a_process_that_waits_for_the_others(tmp_path):
  with Run(tmp_path, "well", num_processes=2) as run:
    parent = run.processes[0]
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 60
    while not children.read_text() and time.monotonic() < deadline:
      time.sleep(0.05)
    child = int(children.read_text())
    # The child listens, so the runtime waits and Python's signal handler cannot run.
    listening = f":{run.port:04X} "
    while listening not in Path(f"/proc/{child}/net/tcp6").read_text():
      assert time.monotonic() < deadline
      time.sleep(0.05)
    time.sleep(0.5)
    parent.send_signal(signal.SIGINT)
    time.sleep(0.5)
    parent.send_signal(signal.SIGINT)
    (ended,) = run.ended(timeout=20)
    assert ended.code == 130
    assert ended.err.startswith("error: process 0 of 2 was stopped by SIGINT; the same --workdir")
    assert gone(child)


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError, Exception])
def test_a_network_error_of_any_type_is_recognized(kind, monkeypatch):
  def end(*_, **__):
    raise kind("UNKNOWN: Gloo AllReduce failed: Connection closed by peer")

  monkeypatch.setattr(jax.distributed, "initialize", end)
  with pytest.raises(LostError, match="process 1 of 2 ended"), processes.join(PROCESS):
    pass


@pytest.mark.parametrize(
  "error",
  [UserError("connect it."), OSError(28, "full", "/gloo"), ValueError("runs/connect4 is damaged")],
)
def test_other_errors_are_no_network_errors(error, monkeypatch):
  monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
  monkeypatch.setattr(processes, "_connect", lambda: None)
  with pytest.raises(type(error)) as caught, processes.join(PROCESS):
    raise error
  assert caught.value is error


def test_a_port_in_use_is_refused():
  with (
    socket.create_server(("127.0.0.1", 0)) as server,
    pytest.raises(UserError, match=r"port .* in use.*another port in --coordinator_address"),
    processes.join(ProcessInfo(f"127.0.0.1:{server.getsockname()[1]}", 2, 0)),
  ):
    pass
