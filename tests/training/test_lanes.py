"""Learning rates side by side train as they do one by one."""

import dataclasses

import numpy as np
import pytest
from helpers.contract_world import COHORT, OWNERS, Net, make_config

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.control.freeze import Freeze
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.norm import create
from fedjax_norm.training import lanes
from fedjax_norm.training.build_program import make_program
from fedjax_norm.training.lanes import can_share, fitting_lanes, train_lanes
from fedjax_norm.training.loop import train
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.task.task import make_task

SHARED = ("round", "phase", "rate", "examples", "bytes_up", "bytes_down", "round_trips")


@pytest.fixture(scope="module")
def make(tiny_source):
  """(method, norm, options) -> (task, program, options of a run)."""

  def make(name, norm, **options):
    method, spec = METHODS[name], create(norm)
    task = make_task(tiny_source, OWNERS, model=Net(spec))
    cohort = None if method.all_clients else COHORT
    config = make_config(method, **{"cohort": cohort, "backend": "vmap", **options})
    return task, make_program(method, task, config), config

  return make


@pytest.mark.parametrize(
  ("name", "norm", "options"),
  [
    ("fedavg", "fixbn", {"evaluate_clients": 2}),
    ("gaia", "bn", {"batch_stats": "recalibrate", "freeze_round": "half"}),
  ],
)
@pytest.mark.long
def test_rates_side_by_side_are_the_single_runs(make, name, norm, options):
  """With client states, two phases, recalibration, and traffic that depends on the updates."""
  task, program, config = make(name, norm, **options)
  variables = initial_variables(task, 0)
  configs = [dataclasses.replace(config, lr=lr) for lr in (0.1, 1e30, 0.02)]
  seen = []
  results = train_lanes(program, configs, task.data, variables, seen.append)
  assert seen == [2, 4]
  assert [len(lane.rows) for lane in results] == [2, 0, 2]
  assert results[1].reason.startswith("the loss became infinite or not a number between rounds 0")
  for lane, one in zip(results[::2], configs[::2], strict=True):
    alone = train(program._replace(rates=one.rates(4)), one, task.data, variables).rows
    assert lane.reason is None
    for row, expected in zip(lane.rows, alone, strict=True):
      assert row.keys() == expected.keys()
      assert all(row[key] == expected[key] for key in SHARED)
      for key in row.keys() - {*SHARED, "seconds", "phase"}:
        np.testing.assert_allclose(row[key], expected[key], rtol=2e-4, atol=1e-5, err_msg=key)
  compiled = [lanes._compile(p.algorithm, program.mapping) for p in program.phases.values()]
  assert {f._cache_size() for f in compiled} == {1}
  train_lanes(program, configs, task.data, variables)
  assert {f._cache_size() for f in compiled} == {1}


def test_what_differs_between_runs_is_not_shared(make):
  _, program, config = make("fedavg", "bn", freeze_round="half")
  assert can_share(program, config) is None
  scan = client_mapping.create("scan", num_clients=3)
  several = client_mapping.create("shard_map", num_clients=3)
  fine_tuned = dataclasses.replace(config, fine_tune_steps=1, evaluate_clients=1)
  reasons = [
    can_share(program._replace(mapping=scan), config),
    can_share(program._replace(mapping=several), config),
    can_share(program._replace(plateau=Plateau()), config),
    can_share(program._replace(freeze=Freeze(None, 3)), config),
    can_share(program._replace(skewscout=object()), config),
    can_share(program._replace(diagnose=object()), config),
    can_share(program._replace(messages=object()), config),
    can_share(program, fine_tuned),
  ]
  assert all(reasons)
  assert len(set(reasons)) == len(reasons)


def test_as_many_lanes_as_fit_the_memory(make, monkeypatch):
  task, program, config = make("fedavg", "bn", freeze_round="half")
  monkeypatch.setattr(lanes, "client_bytes", lambda *_: 10)
  for memory, count in ((1000, 10), (10, 1)):  # 30% of the memory for three clients of 10 bytes
    monkeypatch.setattr(client_mapping.choose_backend, "device_memory", lambda _, m=memory: m)
    assert fitting_lanes(task, program, config) == count
