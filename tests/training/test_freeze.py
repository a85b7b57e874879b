"""The client options after FixBN's freeze."""

import dataclasses

import numpy as np
import pytest
from helpers.settings import configure, plain, program_of

from fedjax_norm import norm
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.data.partitions.registry import make
from fedjax_norm.training.config.freeze_options import calibration_config
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.interval_planner import Controls, next_interval
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.task.task import make_task

CLIPPED = configure(FedAvgConfig, plain(batch_size=8, clip_norm=0.5))


@pytest.fixture(scope="module")
def task(tiny_source):
  division = make("iid", tiny_source.train.labels, 2, 0)
  return make_task(tiny_source, division, norm.create("fixbn"))


def test_by_default_the_freeze_changes_only_the_statistics(task):
  """Local training and learning rates are those of a run without a freeze."""
  program, loop = program_of(FEDAVG, task, CLIPPED, rounds=6, eval_every=3, lr=0.1)
  assert calibration_config(task, loop) == loop
  controls = Controls.initial(program, initial_variables(task, 0))
  first = next_interval(program, loop, controls, 0)
  controls = controls._replace(freeze=controls.freeze._replace(frozen_at=3))
  second = next_interval(program, loop, controls, 3)
  assert first.phase != second.phase
  np.testing.assert_array_equal(np.concatenate([first.rates, second.rates]), np.float32(0.1))


@pytest.mark.parametrize("clip", [0.0, 0.1, 2.0])
def test_freeze_clip_norm_replaces_clip_norm(task, clip):
  config = configure(config_of(FEDAVG), CLIPPED, freeze_clip_norm=clip)
  assert calibration_config(task, config) == dataclasses.replace(config, clip_norm=clip)
