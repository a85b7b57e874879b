"""Workers of a study: shares of the cores, crashes, errors, and the end of the main process."""

import collections
import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from helpers.binaries import PYTHONPATH, ROOT
from helpers.finished_runs import write_study

from fedjax_norm.study.running import leases, progress, workers
from fedjax_norm.training.storage.atomic_files import write_json


def start(folder, *names):
  return subprocess.Popen(
    [sys.executable, str(ROOT / "tests/helpers/study_team.py"), str(folder), *names],
    env={**os.environ, "PYTHONPATH": PYTHONPATH},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def outcomes(folder):
  return {file.stem: json.loads(file.read_text()) for file in (folder / "cells").iterdir()}


@pytest.mark.parametrize(
  ("count", "shares"),
  [(1, [{1, 4, 7}]), (2, [{1}, {4}]), (3, [{1}, {4}, {7}]), (4, [{1}, {4}, {7}, {1}])],
)
def test_workers_get_equal_shares_of_the_cores(count, shares, monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7, 1, 4})
  assert workers.cores(count) == shares


def test_a_contender_with_more_seeds_than_planned_is_finished(tmp_path):
  plan, cell = SimpleNamespace(seeds=3), SimpleNamespace(name="a")
  (tmp_path / "cells").mkdir()
  for seeds, finished in ((2, False), (3, True), (5, True)):
    (tmp_path / "cells/a.json").write_text(json.dumps({"seeds": seeds}))
    assert workers.is_finished(plan, tmp_path, cell) == finished
  (tmp_path / "cells/a.json").write_text("{")  # damaged, so it is made anew
  assert not workers.is_finished(plan, tmp_path, cell)


def test_failed_contenders_are_left_again_unless_another_process_trains_them(tmp_path):
  folder = write_study(tmp_path / "study")
  for name, state in (("b", "failed"), ("d", "failed")):
    outcome = json.loads((folder / "cells/a.json").read_text())
    write_json(folder / "cells" / f"{name}.json", outcome | {"state": state, "reason": "It fell."})
  (folder / "runs/a/seed_1/metrics.csv").write_text("nonsense")
  failed = workers.failed(folder)
  assert [cell.name for cell in failed] == ["a", "b", "d"]
  with leases.take(folder / "leases/d"):
    workers.try_again(folder, failed)
  assert [file.name for file in (folder / "cells").iterdir()] == ["d.json"]
  assert workers.failed(tmp_path / "new") == []


def test_a_crash_counts_for_the_contender_that_was_not_finished(tmp_path):
  cells = [SimpleNamespace(name=name, seconds=1.0) for name in ("first", "crashes")]
  plan = SimpleNamespace(cells=cells, seeds=1)
  for cell in cells:  # a worker trained both, one after the other
    with leases.take(tmp_path / "leases" / cell.name):
      pass
  (tmp_path / "cells").mkdir()
  (tmp_path / "cells/first.json").write_text('{"seeds": 1}')
  team = object.__new__(workers.Team)
  team._folder, team._crashes = tmp_path, collections.Counter()
  team._record_crash(plan, 0, os.getpid(), "SIGKILL")
  assert team._crashes == {"crashes": 1}


def test_a_crash_counts_for_a_contender_that_another_worker_has_taken_over(tmp_path):
  plan = SimpleNamespace(cells=[SimpleNamespace(name="crashes", seconds=1.0)], seeds=1)
  with subprocess.Popen([sys.executable, "-c", ""]) as process:
    pass
  lease = tmp_path / "leases/crashes"
  lease.mkdir(parents=True)
  holder = leases.Holder("here", leases._machine(), process.pid, "1")
  (lease / "0").write_text(json.dumps(holder._asdict()))
  (tmp_path / "cells").mkdir()
  team = object.__new__(workers.Team)
  team._folder, team._crashes = tmp_path, collections.Counter()
  with leases.take(lease):
    team._record_crash(plan, 0, process.pid, "SIGKILL")
  assert team._crashes == {"crashes": 1}


def wait_until(condition, main):
  deadline = time.monotonic() + 60
  while not condition():
    assert main.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.05)


def wait_for_release(cell):
  """A worker that was just being started ends with the main process, but a moment later."""
  deadline = time.monotonic() + 10
  while leases.is_held(cell):
    assert time.monotonic() < deadline
    time.sleep(0.05)


@pytest.mark.long
def test_a_crash_is_tried_again_and_a_stop_ends_all(tmp_path):
  names = ("crashes_once", "first")
  with start(tmp_path, *names, "slow") as main:
    wait_until(lambda: (tmp_path / "cells").exists() and len(outcomes(tmp_path)) == 2, main)
    wait_until(lambda: leases.is_held(tmp_path / "leases/slow"), main)
    main.terminate()
    assert main.wait() == 143
    assert main.stdout.read() == "planned\n"
    assert main.stderr.read().startswith("error: stopped by SIGTERM")
  assert outcomes(tmp_path) == {name: {"seeds": 1, "cores": 1} for name in names}
  wait_for_release(tmp_path / "leases/slow")


@pytest.mark.long
def test_a_contender_that_always_crashes_its_worker_has_failed(tmp_path):
  main = start(tmp_path, "crashes", "first")
  assert main.communicate() == ("planned\n", "")
  assert "SIGKILL 2 times" in outcomes(tmp_path)["crashes"]["reason"]
  assert outcomes(tmp_path)["first"] == {"seeds": 1, "cores": 1}


@pytest.mark.long
def test_an_error_of_all_workers_is_one_sentence(tmp_path):
  main = start(tmp_path, "refused")
  assert main.communicate() == ("", "error: the plan is refused.\n")
  assert main.returncode == 2


@pytest.mark.long
def test_workers_die_with_the_main_process(tmp_path):
  cell = tmp_path / "leases/slow"
  with start(tmp_path, "slow") as main:
    wait_until(lambda: leases.is_held(cell), main)
    main.kill()
    main.communicate()
  wait_for_release(cell)


def test_work_stops_when_its_time_is_over(tmp_path, monkeypatch):
  """At the next evaluation; what is done stays, and the lease is given back."""
  told = []

  def train_cell(plan, cell, folder, report):
    for share in (0.25, 0.5, 0.75):
      told.append((cell.name, share))
      if share == 0.5:
        now[0] = 100.0
      report(share)

  now = [0.0]
  monkeypatch.setattr(workers, "train_cell", train_cell)
  monkeypatch.setattr(workers.time, "time", lambda: now[0])
  plan = SimpleNamespace(
    cells=[SimpleNamespace(name=name, seconds=1.0) for name in ("a", "b")], seeds=1
  )
  workers.finish(plan, tmp_path, lambda: workers.work(plan, tmp_path, 100.0), 100.0)
  assert told == [("a", 0.25), ("a", 0.5)]
  assert not leases.is_held(tmp_path / "leases/a")
  assert leases.read(tmp_path / "leases/a").share == 0.5


def test_a_contender_that_another_machine_trains_is_waited_for(tmp_path, capsys):
  plan = SimpleNamespace(cells=[SimpleNamespace(name="far", seconds=1.0)], seeds=1)
  (tmp_path / "leases/far").mkdir(parents=True)
  lease = tmp_path / "leases/far/0"
  lease.write_text(json.dumps(leases.Holder(host="moon", machine="another")._asdict()))
  (tmp_path / "cells").mkdir()
  outcome = tmp_path / "cells/far.json"
  threading.Timer(0.5, lambda: outcome.write_text('{"seeds": 1}')).start()
  workers.finish(plan, tmp_path, pytest.fail)
  assert capsys.readouterr().out == "note: other processes, on moon, train the rest.\n"
  outcome.write_text('{"seeds": 0}')  # the plan has more seeds since
  os.utime(lease, (0, 0))
  workers.finish(plan, tmp_path, lambda: outcome.write_text('{"seeds": 1}'))


@pytest.mark.parametrize(
  ("done", "elapsed", "seconds"),
  [(0.0, 0.0, 50.0), (60.0, 30.0, 50.0), (30.0, 30.0, 200 / 3), (0.0, 30.0, 100.0)],
)
def test_the_time_left_starts_with_the_plan_and_follows_what_is_done(done, elapsed, seconds):
  assert progress.time_left(100.0, done, elapsed, 2) == pytest.approx(seconds)
