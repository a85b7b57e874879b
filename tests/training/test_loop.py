"""The training loop: intervals, phases, client states, divergence."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from helpers.settings import configure, plain, program_of

from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.norm import create
from fedjax_norm.training.config.freeze_options import FreezeConfig
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.loop import train
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.checkpoint import Checkpoints
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import make_task

CONFIG = configure(FedAvgConfig, plain(batch_size=8, momentum=0.9), client_momentum="local")


@pytest.fixture(scope="module")
def task(tiny_source, tiny_net):
  division, spec = partitions.make("iid", tiny_source.train.labels, 5, 0), create("fixbn")
  return make_task(tiny_source, division, spec)._replace(model=tiny_net(norm=spec))


def run(task, *groups, folder=None, **options):
  program, config = program_of(FEDAVG, task, CONFIG, *groups, **{"lr": 0.05, **options})
  outcome = train(program, config, task.data, initial_variables(task, config.seed), folder)
  return program, outcome


def leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def whole(task):
  return run(task, LoopConfig(11, 4, cohort=2), FreezeConfig(6))


def test_a_phase_change_ends_an_interval(whole):
  _, outcome = whole
  assert [(row["round"], row["phase"]) for row in outcome.rows] == [
    (4, "explore"),
    (6, "explore"),
    (8, "calibrate"),
    (11, "calibrate"),
  ]
  assert outcome.frozen_at == 6


def test_each_phase_is_compiled_once(whole):
  """Intervals of 4, 2, 2 and 3 rounds with different cohorts need one program per phase."""
  program, _ = whole
  assert {name: f._cache_size() for name, f in program.intervals.items()} == {
    "explore": 1,
    "calibrate": 1,
  }


def test_another_seed_runs_the_same_program(task, whole):
  program, outcome = whole
  config = LoopConfig(11, 4, cohort=2, seed=1)
  other = train(program, config, task.data, initial_variables(task, 1))
  assert all(f._cache_size() == 1 for f in program.intervals.values())
  assert other.rows[-1]["loss"] != outcome.rows[-1]["loss"]


def test_small_windows_give_the_same_run(task, whole, monkeypatch):
  """With little memory for client states, an interval runs round by round, with the same bits."""
  monkeypatch.setattr("fedjax_norm.training.rounds._STATE_BUDGET", 1)
  _, in_windows = run(task, LoopConfig(11, 4, cohort=2), FreezeConfig(6))
  chex.assert_trees_all_equal(in_windows.variables, whole[1].variables)
  chex.assert_trees_all_equal(in_windows.clients.arrays, whole[1].clients.arrays)
  for row, other in zip(in_windows.rows, whole[1].rows, strict=True):
    assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_frozen_statistics_do_not_change(task):
  config = LoopConfig(6, 2)
  _, early = run(task, config, FreezeConfig(2))
  stopped = run(task, LoopConfig(3, 2), FreezeConfig(2))[1]
  chex.assert_trees_all_equal(early.variables["batch_stats"], stopped.variables["batch_stats"])
  assert any(
    (a != b).any()
    for a, b in zip(
      leaves(early.variables["params"]), leaves(stopped.variables["params"]), strict=True
    )
  )


def test_affine_parameters_freeze_on_request(task):
  config = LoopConfig(4, 2)
  _, before = run(task, LoopConfig(3, 2), FreezeConfig(2, freeze_affine=True))
  _, after = run(task, config, FreezeConfig(2, freeze_affine=True))
  _, trained = run(task, config, FreezeConfig(2))
  norm = "Norm_0"
  for name in ("scale", "bias"):
    frozen = [o.variables["params"][norm][name] for o in (before, after)]
    np.testing.assert_array_equal(*frozen)
    assert (trained.variables["params"][norm][name] != frozen[0]).any()


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_server_optimizer_with_a_state_does_not_change_frozen_parameters(task, name):
  config = dataclasses.replace(CONFIG, server_optimizer=name, server_lr=0.1)
  ends = []
  for rounds in (3, 5):
    freeze = FreezeConfig(2, freeze_affine=True)
    ends.append(run(task, config, LoopConfig(rounds, 2), freeze)[1].variables)
  for leaf in ("scale", "bias"):
    np.testing.assert_array_equal(*(end["params"]["Norm_0"][leaf] for end in ends))


def test_the_initial_model_is_not_modified(task):
  variables = initial_variables(task, 0)
  program, config = program_of(FEDAVG, task, CONFIG, LoopConfig(2, 2), lr=0.05)
  before = jax.tree.map(np.array, variables)
  first = train(program, config, task.data, variables)
  second = train(program, config, task.data, variables)
  chex.assert_trees_all_equal(variables, before)
  chex.assert_trees_all_equal(first.variables, second.variables)


def test_a_long_evaluation_interval_needs_no_memory(task):
  """An interval is at most as long as the run."""
  _, outcome = run(task, LoopConfig(2, 3_000_000_000))
  assert [row["round"] for row in outcome.rows] == [1, 2]


def test_the_automatic_freeze_waits_for_the_statistics(task):
  """A large tolerance freezes at the third measurement, a small one at 3/4 of the rounds."""
  config = LoopConfig(12, 2)
  _, settled = run(task, config, FreezeConfig("auto", freeze_tolerance=1e6))
  _, late = run(task, config, FreezeConfig("auto", freeze_tolerance=1e-9))
  # With a decay of 0.9, measurements have a distance of 30 local steps, more than this run has.
  assert (settled.frozen_at, late.frozen_at) == (9, 9)
  freeze = FreezeConfig("auto", freeze_tolerance=1e6)
  assert run(task, config, freeze, local_steps=15, lr=0.01)[1].frozen_at == 6


def test_saved_files_stay_after_divergence(task, tmp_path):
  """The loss of round 3 is not finite; the checkpoint and the row of round 2 stay."""
  program, config = program_of(FEDAVG, task, CONFIG, LoopConfig(4, 2), lr=0.05)
  rates = np.array([0.05, 0.05, 1e30, 1e30], np.float32)
  variables = initial_variables(task, 0)
  with RunFolder.open(tmp_path / "run", {}) as folder:
    with pytest.raises(DivergedError, match="between rounds 2 and 4; the checkpoint of round 2"):
      train(program._replace(rates=rates), config, task.data, variables, folder)
    assert [row["round"] for row in folder.rows()] == [2]
  assert Checkpoints(tmp_path / "run" / "checkpoints").latest() == 2


def test_a_cohort_larger_than_the_population_is_refused(task):
  with pytest.raises(UserError, match="cohort of 6"):
    run(task, LoopConfig(1, 1, cohort=6))


def test_a_freeze_needs_fixbn(tiny_source):
  division = partitions.make("iid", tiny_source.train.labels, 5, 0)
  task = make_task(tiny_source, division, create("bn"))
  with pytest.raises(UserError, match="fixbn"):
    run(task, LoopConfig(2, 2), FreezeConfig(1))


def test_the_store_gathers_and_scatters():
  store = ClientStore({"a": np.arange(3.0), "zero": np.zeros(2)}, 6)
  ids = np.array([4, 1])
  states = store.gather(ids)
  np.testing.assert_array_equal(states["a"], [[0, 1, 2], [0, 1, 2]])
  store.scatter(ids, {"a": np.array([[7.0] * 3, [8.0] * 3, [9.0] * 3]), "zero": np.ones((3, 2))})
  np.testing.assert_array_equal(store.arrays["a"][[4, 1, 0]], [[7] * 3, [8] * 3, [0, 1, 2]])
  np.testing.assert_array_equal(store.arrays["zero"].sum(1), [0, 2, 0, 0, 2, 0])
  assert store.client_bytes == 5 * 8
