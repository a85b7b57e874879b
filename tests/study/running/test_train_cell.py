"""One contender: the search and the final runs, interrupted, resumed, and by its own command."""

import json
import shlex
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from absl import flags

from fedjax_norm.cli import command_line, train
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.options import make
from fedjax_norm.study.planning.budget import GUESS
from fedjax_norm.study.planning.config import FLAGS
from fedjax_norm.study.planning.plan import load_or_make
from fedjax_norm.study.running.train_cell import _Work, train_cell
from fedjax_norm.training.storage.atomic_files import read_json
from fedjax_norm.training.storage.checkpoint import Checkpoints
from fedjax_norm.training.storage.csv_rows import read_rows
from fedjax_norm.training.storage.lock import locked
from fedjax_norm.training.storage.run_folder import RunFolder


class Stop(BaseException):
  pass


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A contender that was stopped in its search and in its final runs: (plan, folder, log)."""
  folder = tmp_path_factory.mktemp("study")
  options = {"data": "synthetic:classes=3,train=90,test=30,size=6", "clients": 3, "batch_size": 8}
  options |= {"norms": "gn", "algorithms": "fedavg", "local_steps": "2", "steps": 24}
  options |= {"seeds": 2, "lrs": "0.02,0.1,1e30", "workers": 1, "host_devices": 2}
  plan = load_or_make(make(FLAGS, **options), folder)
  log = {"compiled": [], "shares": []}

  def listen(event, _, fun_name="", **__):
    if event.endswith("backend_compile_duration"):
      log["compiled"].append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  for after in (3, 9, 1000):
    calls = []

    def progress(share, after=after, calls=calls):
      calls.append(share)
      if len(calls) == after:
        raise Stop

    try:
      train_cell(plan, plan.cells[0], folder, progress)
    except Stop:
      assert not (folder / "cells").exists()
    log["shares"].append(calls)
  jax.monitoring.unregister_event_duration_listener(listen)
  return plan, folder, log


def outcome(world):
  plan, folder, _ = world
  return json.loads((folder / "cells" / f"{plan.cells[0].name}.json").read_text())


def test_the_outcome_tells_how_the_rate_was_chosen(world):
  found = outcome(world)
  assert (found["state"], found["reason"], found["single_model"]) == ("done", None, True)
  assert found["options"] == {
    "norm": "gn", "algorithm": "fedavg", "local_steps": 2, "partition": "classes"
  }  # fmt: skip
  search = found["tuning"]
  trials = {(trial["lr"], trial["steps"]): trial for trial in search["trials"]}
  assert set(trials) == {(0.02, 8), (0.1, 8), (1e30, 8), (0.02, 12), (0.1, 12)}
  assert "infinite or not a number" in trials[1e30, 8]["reason"]
  best = max((0.1, 0.02), key=lambda rate: trials[rate, 12]["value"])
  assert search["lr"] == best or trials[0.1, 12]["value"] == trials[0.02, 12]["value"]
  assert {search["lr"], search["runner_up"]} == {0.02, 0.1}
  finished = {trial["examples"] for trial in trials.values() if trial["value"] is not None}
  assert finished == {12}  # 4 of each client's 30


def test_a_trial_is_scored_on_validation_examples(world):
  plan, folder, _ = world
  path = folder / "tuning" / plan.cells[0].name / "0.1_12"
  rows, _ = read_rows(path / "metrics.csv")
  trials = outcome(world)["tuning"]["trials"]
  (value,) = (t["value"] for t in trials if (t["lr"], t["steps"]) == (0.1, 12))
  assert value == max(row["val_top1"] for row in rows)
  assert rows[-1]["round"] == 6


def test_finished_trials_keep_their_results_without_their_models(world):
  plan, folder, _ = world
  for path in (folder / "tuning" / plan.cells[0].name).iterdir():
    names = {one.name for one in path.iterdir()}
    assert {"config.json", "trial.json"} < names
    assert not names & {"checkpoints", "model_best.msgpack"}
  assert (folder / "runs" / plan.cells[0].name / "seed_0" / "checkpoints").exists()


def test_a_short_trial_has_no_checkpoints_and_the_same_rows(world, tmp_path, monkeypatch):
  plan, folder, _ = world
  cell = plan.cells[0]._replace(seconds=1.0)

  def stop(share):
    raise Stop

  with monkeypatch.context() as patch:
    patch.setattr(RunFolder, "append", lambda *_: stop(0))
    with pytest.raises(Stop):
      _Work(plan._replace(costs={"": GUESS}), cell, tmp_path, lambda _: None).run_trials([(0.1, 8)])
  path = tmp_path / "tuning" / cell.name / "0.1_8"
  (path / "metrics.csv").write_text("round,loss\n3,0.5\n")  # of a process that was killed
  monkeypatch.setattr(Checkpoints, "__init__", stop)
  work = _Work(plan._replace(costs={"": GUESS}), cell, tmp_path, lambda _: None)
  work.run_trials([(0.1, 8)])
  rows, saved = (
    read_rows(one / "tuning" / cell.name / "0.1_8" / "metrics.csv")[0] for one in (tmp_path, folder)
  )
  assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in saved]
  assert read_json(path / "trial.json") == read_json(
    folder / "tuning" / cell.name / "0.1_8" / "trial.json"
  )


def test_final_runs_wait_for_a_process_that_still_has_the_folder(world):
  plan, folder, _ = world
  outcome_file = folder / "cells" / f"{plan.cells[0].name}.json"
  before = outcome(world)
  outcome_file.unlink()
  with ThreadPoolExecutor(1) as pool:
    with locked(folder / "runs" / plan.cells[0].name):
      other = pool.submit(train_cell, plan, plan.cells[0], folder)
      time.sleep(1)
      assert not other.done()
    other.result(60)
  assert outcome(world) | {"seconds": 0} == before | {"seconds": 0}


def test_rates_lengths_and_seeds_share_one_program(world):
  compiled = world[2]["compiled"]
  # Each of the three starts of the contender is a process of its own, as far as programs go.
  assert compiled.count("jit(interval)") <= 3
  assert compiled.count("jit(_init)") <= 1


def test_progress_rises_and_reaches_the_end(world):
  *_, shares = world[2]["shares"]
  assert shares == sorted(shares)
  assert shares[-1] == 1.0


def test_a_finished_contender_trains_nothing(world):
  plan, folder, _ = world
  before = outcome(world)
  (folder / "cells" / f"{plan.cells[0].name}.json").unlink()
  calls = []
  train_cell(plan, plan.cells[0], folder, calls.append)
  assert not calls
  assert outcome(world) | {"seconds": 0} == before | {"seconds": 0}


def test_the_command_repeats_the_final_runs(world, tmp_path, monkeypatch):
  plan, folder, _ = world
  words = shlex.split(outcome(world)["command"])
  words = words[words.index("python") :]  # a pinned process starts with taskset
  assert words[:3] == ["python", "-m", "experiments.run"]
  monkeypatch.chdir(tmp_path)
  kind = ANY_METHOD.config_for(words[3:])
  values = flags.FlagValues()
  define(kind, values)
  values(["run", *words[3:], "--workdir=again", "--noprogress"])
  train.run(parse(kind, values))
  for seed in ("seed_0", "seed_1"):
    study, _ = read_rows(folder / "runs" / plan.cells[0].name / seed / "metrics.csv")
    again, _ = read_rows(tmp_path / "again" / seed / "metrics.csv")
    assert len(study) == len(again) > 1
    for row, other in zip(study, again, strict=True):
      assert row | {"seconds": 0} == other | {"seconds": 0}


@pytest.mark.parametrize(
  ("usable", "machine", "start"),
  [({1}, 2, "taskset -c 0 "), ({4, 5}, 8, "taskset -c 0-1 "), ({0, 1}, 2, "")],
)
def test_the_command_has_as_many_cores_as_the_runs_had(monkeypatch, usable, machine, start):
  monkeypatch.setattr("os.sched_getaffinity", lambda _: usable)
  monkeypatch.setattr("os.cpu_count", lambda: machine)
  assert command_line.pinning() == start


def test_divergence_failure_and_impossible_contenders_are_outcomes(world, tmp_path, monkeypatch):
  plan, _, _ = world
  cell = plan.cells[0]

  def state(plan, cell):
    train_cell(plan, cell, tmp_path)
    found = json.loads((tmp_path / "cells" / f"{cell.name}.json").read_text())
    return found["state"], found["reason"]

  diverging = plan._replace(rates=(1e30,), seeds=1)
  found = state(diverging, cell._replace(name="a"))
  assert found[0] == "diverged"
  assert found[1].startswith("the loss became infinite or not a number between rounds 0 and 2")
  assert state(plan, cell._replace(name="b", reason="It cannot.")) == ("impossible", "It cannot.")
  monkeypatch.setattr(train, "prepare", lambda *_: 1 / 0)
  assert state(plan, cell._replace(name="c")) == (
    "failed",
    f"ZeroDivisionError: division by zero; see {tmp_path}/logs/c.txt.",
  )
  assert "in _prepare" in (tmp_path / "logs/c.txt").read_text()


@pytest.mark.long
def test_rates_side_by_side_give_the_same_scores(tmp_path):
  options = {"data": "synthetic:classes=3,train=90,test=30,size=6", "clients": 3, "batch_size": 8}
  options |= {"norms": "gn", "algorithms": "fedavg", "local_steps": "2", "steps": 16}
  options |= {"seeds": 1, "lrs": "0.02,0.1,0.3,1e30", "workers": 1, "backend": "vmap"}
  found = {}
  for lanes in (1, 3):
    plan = load_or_make(make(FLAGS, **options), None)._replace(lanes=lanes, measure="loss")
    work = _Work(plan, plan.cells[0], tmp_path / str(lanes), lambda share: None)
    work.search()
    found[lanes] = work.tuning
  one, side_by_side = found[1], found[3]
  assert side_by_side[:3] == one[:3]
  for trial, other in zip(one.trials, side_by_side.trials, strict=True):
    assert trial[:2] == other[:2]
    assert trial.reason == other.reason
    assert trial.value is None or other.value == pytest.approx(trial.value, rel=1e-4)
  path = tmp_path / "3" / "tuning" / plan.cells[0].name
  assert len(read_rows(path / "0.3_8" / "metrics.csv")[0]) == 4
