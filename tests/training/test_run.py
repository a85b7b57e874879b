"""``fedjax_norm.run``: callbacks, wrong arguments and public names."""

import jax
import numpy as np
import pytest
from helpers.user_parts import CLIENTS, LOOP, Plain, run

import fedjax_norm as fn


@pytest.fixture(scope="module")
def task(tiny_source):
  return fn.make_task(tiny_source, CLIENTS, model=Plain())


def test_a_callback_follows_every_evaluation_and_can_end_the_run(task, tmp_path):
  """The callback runs after the row and the checkpoint are saved."""
  calls = []

  def watch(round_, row, variables):
    saved = (tmp_path / "run" / "metrics.csv").read_text().count("\n") - 1
    checkpoints = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    calls.append((round_, row["round"], saved, str(round_) in checkpoints, variables))
    return round_ == 4

  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    outcome = run(task, fn.LoopConfig(8, 2), folder=folder, on_evaluation=watch)
  assert [call[:4] for call in calls] == [(2, 2, 1, True), (4, 4, 2, True)]
  assert [row["round"] for row in outcome.rows] == [2, 4]
  jax.tree.map(np.testing.assert_array_equal, calls[-1][4], outcome.variables)
  first, last = (call[4]["params"]["Dense_0"]["kernel"] for call in calls)
  assert (first != last).any()  # the first one was not overwritten


def test_an_exception_of_a_callback_stops_the_run_and_saved_files_stay(task, tmp_path):
  def fail(round_, row, variables):
    raise OSError("the tracker is gone")

  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    with pytest.raises(OSError, match="tracker"):
      run(task, folder=folder, on_evaluation=fail)
    assert [row["round"] for row in folder.rows()] == [2]
  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    assert [row["round"] for row in run(task, folder=folder).rows] == [2, 4]


@pytest.mark.parametrize(
  ("groups", "changed", "words"),
  [
    ((0.1,), {}, "float is no group of options"),
    ((LOOP, fn.SsgdConfig()), {}, "SsgdConfig is no group of options of FedAvgConfig"),
    ((fn.LocalConfig(objective="regression"),), {}, "the task's objective, 'classification'"),
    ((), {"method": "fedaverage"}, "unknown method 'fedaverage'; choose one of fedavg, scaffold"),
    ((), {"task": None}, "the argument task must be an object of type Task"),
    ((), {"folder": "runs/one"}, "folder must be an object of type RunFolder, not a str"),
    ((), {"local_step": 2}, "there is no option 'local_step' here; choose from .*local_steps"),
    ((), {"rounds": 2.5}, "--rounds is 2.5; it must be a whole number"),
  ],
)
def test_wrong_arguments_of_a_run(task, groups, changed, words):
  arguments = {"method": "fedavg", "task": task, **changed}
  with pytest.raises(fn.UserError, match=words):
    fn.run(arguments.pop("method"), arguments.pop("task"), *groups, **arguments)


def test_names_for_user_defined_parts_are_public():
  assert {
    "METHODS",
    "Algorithm",
    "Averaging",
    "Context",
    "DgcConfig",
    "Examples",
    "GaiaConfig",
    "Method",
    "Objective",
    "Source",
    "Update",
    "config_of",
    "load_run",
    "run",
  } <= {*fn.__all__}
  assert all(hasattr(fn, name) for name in fn.__all__)
