"""Runs of SSGD, asynchronous SGD and split learning: compilation, learning rates, resuming."""

import chex
import numpy as np
import pytest
from helpers.settings import plain, program_of
from helpers.split_world import Net

from fedjax_norm.algorithms.asgd import ASGD
from fedjax_norm.algorithms.ssgd import SSGD
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError
from fedjax_norm.norm import create
from fedjax_norm.split.algorithm import SPLIT
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.loop import train
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import make_task

LOCAL = plain(batch_size=4, momentum=0.5)
LOOP = LoopConfig(11, 3)
WARM_UP = 4
# No loss falls by 90% between evaluations, so every evaluation after the first lowers the rate.
PLATEAU = Plateau(factor=0.5, patience=1, tolerance=0.9, start=WARM_UP)


def make(name, source, net):
  """Returns (task, program) of a run that lowers its rate and, except for ASGD, freezes."""
  spec = create("bn" if name == "asgd" else "fixbn")
  division = partitions.make("dirichlet", source.train.labels, 5, 0, alpha=1.0)
  task = make_task(source, division, spec)._replace(model=net(norm=spec))
  if name == "split":
    task = task._replace(model=Net(spec))
  options = {"freeze_round": 6, "freeze_lr_factor": 0.5}
  if name == "asgd":
    options = {"delay_compensation": "adaptive", "network": "mobile"}
  method = {"ssgd": SSGD, "asgd": ASGD, "split": SPLIT}[name]
  program, _ = program_of(method, task, LOCAL, LOOP, lr=0.1, lr_warmup_rounds=WARM_UP, **options)
  return task, program._replace(plateau=PLATEAU)


@pytest.fixture(scope="module", params=["ssgd", "asgd", "split"])
def whole(request, tiny_source, tiny_net):
  """(name, task, program, outcome) of an uninterrupted run."""
  task, program = make(request.param, tiny_source, tiny_net)
  outcome = train(program, LOOP, task.data, initial_variables(task, 0))
  return request.param, task, program, outcome


def test_one_compilation_per_phase(whole):
  """Intervals of 3 and 2 rounds, falling rates and another seed cause no recompilation."""
  name, task, program, outcome = whole
  other = train(program, LoopConfig(11, 3, seed=1), task.data, initial_variables(task, 1))
  assert {key: f._cache_size() for key, f in program.intervals.items()} == (
    {"explore": 1} if name == "asgd" else {"explore": 1, "calibrate": 1}
  )
  assert other.rows[-1]["loss"] != outcome.rows[-1]["loss"]


def test_the_rate_falls_after_the_warm_up(whole):
  name, _, _, outcome = whole
  assert [row["round"] for row in outcome.rows] == [3, 6, 9, 11]
  # Round 3 is in the warm-up; round 6 is the first evaluation, and each later one halves the rate;
  # the freeze at round 6 halves it once more.
  expected = np.array([0.1 * 3 / 4, 0.1, 0.1, 0.05]) * (1 if name == "asgd" else [1, 1, 0.5, 0.5])
  np.testing.assert_allclose([row["rate"] for row in outcome.rows], expected, rtol=1e-6)


def test_the_rate_multiplies_every_step(whole):
  """At a rate of 0 from round 3 on, parameters do not change."""
  _, task, program, _ = whole
  still = program._replace(rates=np.where(np.arange(11) < 3, program.rates, 0).astype(np.float32))
  ends = [
    train(still, LoopConfig(rounds, 3), task.data, initial_variables(task, 0)).variables["params"]
    for rounds in (3, 11)
  ]
  chex.assert_trees_all_equal(*ends)


@pytest.mark.parametrize("stop", [3, 9])
def test_a_resumed_run_ends_with_the_same_bits(whole, tmp_path, stop):
  _, task, program, outcome = whole
  variables = initial_variables(task, 0)
  with RunFolder.open(tmp_path / "run", {}) as folder:
    train(program, LoopConfig(stop, 3), task.data, variables, folder)
  with RunFolder.open(tmp_path / "run", {}) as folder:
    resumed = train(program, LOOP, task.data, variables, folder)
    written = folder.rows()
  chex.assert_trees_all_equal(resumed.variables, outcome.variables)
  assert [row["round"] for row in written] == [3, 6, 9, 11]
  for row, other in zip(resumed.rows, outcome.rows, strict=True):
    assert {**row, "seconds": 0} == {**other, "seconds": 0}
  assert all(f._cache_size() == 1 for f in program.intervals.values())


@pytest.mark.parametrize("method", [SSGD, ASGD])
def test_a_cohort_is_refused(method, tiny_source, tiny_net):
  task, _ = make("asgd", tiny_source, tiny_net)
  with pytest.raises(UserError, match="every client takes part"):
    program_of(method, task, LoopConfig(2, 2, cohort=3))
