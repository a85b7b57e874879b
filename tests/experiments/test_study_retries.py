"""A study with damaged or continued runs answers for the others, and tries again what failed."""

import dataclasses
import json
import shutil

import pytest

from fedjax_norm.cli.commands import study
from fedjax_norm.options import make
from fedjax_norm.study.planning.config import FLAGS
from fedjax_norm.study.running import workers
from fedjax_norm.training.storage.run_folder import METRICS

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The options of a finished study of two contenders with two seeds."""
  folder = tmp_path_factory.mktemp("studies") / "study"
  options = {"data": "synthetic:classes=3,train=60,test=30,size=6", "clients": 3, "batch_size": 8}
  options |= {"norms": "gn,none", "algorithms": "fedavg", "local_steps": "2", "steps": 8}
  options |= {"seeds": 2, "lrs": "0.1", "workers": 1, "model": "tiny", "progress": False}
  options |= {"host_devices": 2}  # as JAX has in the tests
  config = make(FLAGS, **options, workdir=str(folder))
  study.main(config)
  return config


@pytest.fixture
def again(finished, tmp_path):
  """Returns a copy of the study's folder, and a function that runs its command and reads it."""
  folder = shutil.copytree(finished.workdir, tmp_path / "study")

  def run():
    study.main(dataclasses.replace(finished, workdir=str(folder)))
    rows = json.loads((folder / "results.json").read_text())["contenders"]
    return {row["options"]["norm"]: row for row in rows}

  return folder, run


def runs_of(folder, norm):
  (path,) = (folder / "runs").glob(f"{norm}-*")
  return path


def test_a_damaged_run_fails_until_its_folder_is_deleted(again, capsys):
  folder, run = again
  before = json.loads((folder / "results.json").read_text())["contenders"]
  seed = runs_of(folder, "gn") / "seed_1"
  (seed / METRICS).write_text("nonsense\nmore, nonsense\n")
  for _ in range(2):  # by the start of the command that finds it, and when it has an outcome
    rows = run()
    assert rows["none"]["state"] == "done"
    assert rows["gn"]["state"] == "failed"
    assert rows["gn"]["reason"].startswith(f"Line 2 of {seed / METRICS} is damaged")
    assert rows["gn"]["reason"].endswith(
      f"; delete the folder {seed}, and the same command trains it again."
    )
  assert "which tries again what failed" in " ".join(capsys.readouterr().out.split())
  shutil.rmtree(seed)
  first = (runs_of(folder, "gn") / "seed_0" / METRICS).read_bytes()
  rows = run()
  for row in before:
    found = rows[row["options"]["norm"]]
    names = {name for name in row if "seconds" not in name} - {"folder", "command"}
    assert {name: found[name] for name in names} == {name: row[name] for name in names}
  assert (runs_of(folder, "gn") / "seed_0" / METRICS).read_bytes() == first


def test_a_failed_contender_is_tried_again_and_a_damaged_outcome_is_made_anew(again, monkeypatch):
  folder, run = again
  gn, none = (folder / "cells" / f"{runs_of(folder, norm).name}.json" for norm in ("gn", "none"))
  gn.write_text(json.dumps(json.loads(gn.read_text()) | {"state": "failed", "reason": "It fell."}))
  none.write_text("{")
  tried = []
  train_cell = workers.train_cell

  def counted(plan, cell, *others):
    tried.append(cell.name)
    train_cell(plan, cell, *others)

  monkeypatch.setattr(workers, "train_cell", counted)
  for _ in range(2):  # the second time, nothing is left
    rows = run()
    assert [rows[norm]["state"] for norm in ("gn", "none")] == ["done", "done"]
    assert sorted(tried) == sorted([gn.stem, none.stem])


def test_a_run_that_was_continued_beyond_the_plan_is_not_ranked(again):
  folder, run = again
  path = runs_of(folder, "gn")
  for file in path.rglob("config.json"):
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rounds": 9}))
  found = run()["gn"]
  assert (found["state"], found["rank"]) == ("failed", None)
  assert found["reason"] == (
    f"the run in {path} has 9 rounds, but those of the study have 4; delete the folder {path}, and "
    "the same command trains it again."
  )
