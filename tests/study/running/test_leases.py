"""Leases: one holder at a time, and the work of dead and silent holders is taken over."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.binaries import PYTHONPATH

from fedjax_norm.study.running import leases

BEAT = 0.01


@pytest.fixture
def cell(tmp_path):
  return tmp_path / "cell"


def take(cell):
  return leases.take(cell, leases.PATIENCE, BEAT)


def write(cell, seconds_ago=0.0, **holder):
  """Writes a first lease that was last touched some seconds ago."""
  cell.mkdir()
  file = cell / "0"
  file.write_text(json.dumps(leases.Holder(**holder)._asdict()) if holder else "")
  os.utime(file, (time.time() - seconds_ago,) * 2)


def test_a_lease_is_held_by_one_until_it_is_given_back(cell):
  assert leases.read(cell) is None
  with take(cell):
    assert leases.is_held(cell)
    assert take(cell) is None
    assert leases.read(cell).pid == os.getpid()
  assert not leases.is_held(cell)
  with take(cell):
    assert leases.is_held(cell)


def test_others_read_the_share(cell):
  with take(cell) as lease:
    lease.report(0.123456789)
    lease.report(0.5)  # a shorter text in place of a longer one
    deadline = time.monotonic() + 10
    while leases.read(cell).share != 0.5:
      assert time.monotonic() < deadline
      time.sleep(BEAT)


@pytest.mark.parametrize(("seconds", "taken"), [(50, False), (70, True)])
@pytest.mark.parametrize("holder", [{"machine": "another", "pid": 1}, {}])
def test_a_silent_lease_is_taken_over(cell, seconds, taken, holder):
  write(cell, seconds, **holder)  # without a holder, it died before it wrote
  assert leases.is_held(cell) != taken
  lease = take(cell)
  assert (lease is not None) == taken
  if lease:
    with lease:
      assert leases.read(cell).pid == os.getpid()


@pytest.mark.parametrize("used_again", [False, True])
def test_a_process_id_that_is_used_again_holds_nothing(cell, used_again):
  started = "1" if used_again else leases._started(os.getpid())
  write(cell, machine=leases._machine(), pid=os.getpid(), started=started)
  assert leases.is_held(cell) != used_again


def test_a_holder_notices_that_its_work_was_taken_over(cell):
  with take(cell) as lease:
    os.utime(cell / "0", (0, 0))
    with leases.take(cell, -1.0):  # a process that has no patience
      lease._thread.join(10)  # it ends at the first touch after the loss
      with pytest.raises(leases.LostLease):
        lease.report(0.5)
  assert not leases.is_held(cell)


def test_of_many_takers_one_gets_a_stale_lease(tmp_path):
  cells = [tmp_path / f"cell_{i}" for i in range(40)]
  for cell in cells:
    write(cell, machine=leases._machine(), pid=os.getpid(), started="1")
  start, held = threading.Barrier(8), [threading.Lock() for _ in cells]

  def race(number):
    start.wait()
    taken = 0
    for cell, lock in zip(cells, held, strict=True):
      if (lease := take(cell)) is not None:
        with lease:
          assert lock.acquire(blocking=False), "two holders"
          time.sleep(0.001)
          lock.release()
          taken += 1
    return taken

  with ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(race, range(8))) >= len(cells)


def test_a_killed_process_holds_no_lease(cell):
  program = f"""
from pathlib import Path
import time
from fedjax_norm.study.running import leases
with leases.take(Path({str(cell)!r})):
  print("held", flush=True)
  time.sleep(600)
"""
  with subprocess.Popen(
    [sys.executable, "-c", program],
    env={**os.environ, "PYTHONPATH": PYTHONPATH},
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "held\n"
    assert take(cell) is None
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet reaped
    with take(cell):
      assert leases.read(cell).pid == os.getpid()
