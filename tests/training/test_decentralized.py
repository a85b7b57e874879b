"""Runs of Gaia, periodic averaging and DGC: one program for all thetas, SkewScout, resuming."""

import chex
import numpy as np
import pytest
from helpers.settings import configure, plain, program_of

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.dgc import DGC, warmup
from fedjax_norm.algorithms.gaia import GAIA
from fedjax_norm.algorithms.periodic_averaging import PERIODIC
from fedjax_norm.algorithms.ssgd import BSP, SSGD
from fedjax_norm.control.theta import ThetaSchedule
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError
from fedjax_norm.norm import create
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.config.schedule import Schedule
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.loop import train
from fedjax_norm.training.outcome import summary
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.skewscout_run import make_theta_schedule
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import make_task

LOCAL = plain(batch_size=4, momentum=0.5)
LOOP = LoopConfig(12, 4)
SCHEDULE = Schedule(0.1, "step", lr_boundaries=(6.0,), lr_factor=0.1)
ONES = np.ones(LOOP.rounds, np.float32)
CLIENTS = 4
METHODS = {"gaia": (GAIA, {"batch_stats": "local"}), "fedavg": (PERIODIC, {}), "dgc": (DGC, {})}
GRIDS = {"gaia": (0.01, 0.05, 0.3), "fedavg": (1.0, 2.0, 5.0), "dgc": (0.5, 0.9)}
FIXED = {
  "gaia": ThetaSchedule(0.1 * ONES, follows_rate=True),
  "fedavg": ThetaSchedule(3 * ONES),
  "dgc": ThetaSchedule(warmup(LOOP.rounds, (0.25, 0.5), 2, 0.9)),
}


def make(name, source, net, **options):
  """Returns the task and the program of a run with SkewScout."""
  spec = create("bn")
  division = partitions.make("classes", source.train.labels, CLIENTS, 0, classes_per_client=1)
  task = make_task(source, division, spec)._replace(model=net(norm=spec))
  method, defaults = METHODS[name]
  scout = {"scout_every": 3, "scout_examples": 8, "scout_grid": GRIDS[name], "scout_memory": 1}
  search = "annealing" if name == "dgc" else "hill"
  options = {**defaults, "skewscout": search, **scout, **options}
  return task, program_of(method, task, LOCAL, LOOP, SCHEDULE, **options)[0]


@pytest.fixture(scope="module", params=["fedavg", "dgc"])
def whole(request, tiny_source, tiny_net):
  """(name, task, program, outcome) of an uninterrupted run with SkewScout."""
  task, program = make(request.param, tiny_source, tiny_net, network="wan")
  outcome = train(program, LOOP, task.data, initial_variables(task, 0))
  return request.param, task, program, outcome


def test_theta_changes_without_recompilation(whole):
  """SkewScout's measurements, every three steps or when FedAvg averages, end intervals too."""
  name, task, program, outcome = whole
  thetas = [row["theta"] for row in outcome.rows]
  assert len(set(thetas)) > 1
  assert [f._cache_size() for f in program.intervals.values()] == [1]
  fixed = program._replace(theta_schedule=FIXED[name], skewscout=None)
  train(fixed, LOOP, task.data, initial_variables(task, 0))
  assert [f._cache_size() for f in program.intervals.values()] == [1]
  if name != "fedavg":
    assert [row["round"] for row in outcome.rows] == [3, 4, 6, 8, 9, 12]
  losses = [row["accuracy_loss"] for row in outcome.rows]
  assert all(-1 <= loss <= 1 for loss in losses)
  assert any(losses)


@pytest.mark.parametrize("whole", ["dgc"], indirect=True)
def test_model_traveling_is_charged(whole):
  """Each model goes up and down to another client, and an accuracy comes back."""
  name, task, program, outcome = whole
  fixed = program._replace(theta_schedule=FIXED[name], skewscout=None)
  only_first = fixed._replace(theta_schedule=ThetaSchedule(GRIDS[name][0] * ONES))
  plain = train(only_first, LoopConfig(3, 3), task.data, initial_variables(task, 0)).rows[0]
  first = outcome.rows[0]
  assert first["round"] == plain["round"] == 3
  assert first["train_loss"] == plain["train_loss"]
  variables = initial_variables(task, 0)
  model = (
    tree_leaves.num_bytes(variables["params"]) + 4 * 2 * 8
  )  # parameters and running statistics
  assert first["bytes_up"] - plain["bytes_up"] == CLIENTS * (model + 4)
  assert first["bytes_down"] - plain["bytes_down"] == CLIENTS * (model + 4)
  assert first["round_trips"] - plain["round_trips"] == 2
  assert first["simulated_seconds"] > plain["simulated_seconds"]
  assert summary(outcome)["theta"] == outcome.rows[-1]["theta"]


@pytest.mark.parametrize("whole", ["fedavg"], indirect=True)
def test_averages_cost_simulated_time(whole):
  """Averaging every 3 steps needs a third of the round trips of averaging every step."""
  _, task, program, _ = whole
  seconds = []
  for theta in (1, 3):
    fixed = program._replace(theta_schedule=ThetaSchedule(theta * ONES), skewscout=None)
    rows = train(fixed, LoopConfig(12, 12), task.data, initial_variables(task, 0)).rows
    seconds.append(rows[0]["simulated_seconds"])
    assert rows[0]["round_trips"] == 12 // theta
  algorithm = program.phases["explore"].algorithm
  state = algorithm.init(initial_variables(task, 0))
  assert not algorithm.averages_next(state)
  assert algorithm.averages_next(state._replace(due=True))
  assert 2.5 < seconds[0] / seconds[1] <= 3.01


def test_a_resumed_run_ends_with_the_same_bits(whole, tmp_path):
  _, task, program, outcome = whole
  stop = outcome.rows[2]["round"]
  variables = initial_variables(task, 0)
  with RunFolder.open(tmp_path / "run", {}) as folder:
    train(program, LoopConfig(stop, 4), task.data, variables, folder)
  with RunFolder.open(tmp_path / "run", {}) as folder:
    resumed = train(program, LOOP, task.data, variables, folder)
  chex.assert_trees_all_equal(resumed.variables, outcome.variables)
  for row, other in zip(resumed.rows, outcome.rows, strict=True):
    assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_client_models_are_tested_in_addition_to_their_mean(whole):
  name, _, _, outcome = whole
  last = outcome.rows[-1]
  assert ("models_top1" in last) == (name != "dgc")
  if name != "dgc":
    assert last["models_top1_min"] <= last["models_top1"]
    # Each client model has seen one class, so the mean model has another accuracy.
    assert last["models_top1"] != last["top1"]


def test_measuring_the_accuracy_loss_of_bsp_costs_no_traffic(tiny_source, tiny_net):
  task, _ = make("gaia", tiny_source, tiny_net)
  measured = {"skewscout": "measure", "scout_every": 4, "scout_examples": 8}
  rows = []
  for method, options in ((BSP, measured), (SSGD, {"reduction": "sum"})):
    program, _ = program_of(method, task, LOCAL, LOOP, SCHEDULE, weighting="uniform", **options)
    rows.append(train(program, LOOP, task.data, initial_variables(task, 0)).rows)
  measured_rows, plain_rows = rows
  assert np.isfinite([row["accuracy_loss"] for row in measured_rows]).all()
  for row, other in zip(measured_rows, plain_rows, strict=True):
    more = {"accuracy_loss", "theta", "seconds"}
    assert {k: v for k, v in row.items() if k not in more} == {
      k: v for k, v in other.items() if k != "seconds"
    }


def test_invalid_options_are_refused(tiny_source, tiny_net):
  for options, words in (
    ({"scout_examples": 0}, "at least 1"),
    ({"cohort": 2}, "every client takes part in each round of gaia"),
    ({"scout_grid": (0.05, 0.01)}, "rising order"),
    ({"scout_start": 0.02}, "which the grid .* lacks"),
    ({"scout_every": 13}, "after 13 rounds, but the run has 12"),
  ):
    with pytest.raises(UserError, match=words):
      make("gaia", tiny_source, tiny_net, **options)
  task, _ = make("gaia", tiny_source, tiny_net)
  alone = task._replace(data=task.data._replace(sizes=task.data.sizes[:1]))
  with pytest.raises(UserError, match="or raise --clients"):
    program_of(GAIA, alone, LOCAL, LOOP, skewscout="hill")


@pytest.mark.parametrize(("method", "off"), [(GAIA, {"threshold": 0}), (DGC, {"sparsity": 0})])
def test_a_theta_of_zero_has_a_schedule(method, off):
  """Theta 0 sends everything, and the rows have the column theta."""
  theta_schedule = make_theta_schedule(configure(config_of(method), **off), method, 4)
  assert theta_schedule is not None
  assert not theta_schedule.values.any()
