"""Workers of a study: shares of the cores, crashes, errors, and the end of the main process."""

import json
import os
import subprocess
import sys
import time

import pytest
from helpers.binaries import PYTHONPATH, ROOT

from fedjax_norm.study import leases, workers


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


def wait_until(condition, main):
  deadline = time.monotonic() + 60
  while not condition():
    assert main.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.05)


def test_crashes_are_tried_again_and_a_stop_ends_all(tmp_path):
  names = ("crashes", "first", "crashes_once", "second")
  with start(tmp_path, *names, "slow") as main:
    wait_until(lambda: (tmp_path / "cells").exists() and len(outcomes(tmp_path)) == 4, main)
    wait_until(lambda: leases.is_held(tmp_path / "leases/slow"), main)
    main.terminate()
    assert main.wait() == 143
    assert main.stdout.read() == "planned\n"
    assert main.stderr.read().startswith("error: stopped by SIGTERM")
  found = outcomes(tmp_path)
  assert "SIGKILL 2 times" in found.pop("crashes")["reason"]
  assert found == {name: {"seeds": 1, "cores": 1} for name in names[1:]}
  assert not leases.is_held(tmp_path / "leases/slow")


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
  deadline = time.monotonic() + 10
  while leases.is_held(cell):
    assert time.monotonic() < deadline
    time.sleep(0.05)
