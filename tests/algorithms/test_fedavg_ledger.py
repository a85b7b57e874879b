"""The traffic of FedAvg, counted by hand."""

import numpy as np
import pytest
from helpers.fedavg_world import FOUR, HEAVY, SCAN, SHAPE, SPECS
from helpers.settings import built, configure

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.training.build_program import make_program
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.task.task import make_task

# The small network: a 3x3x1x8 kernel, gamma and beta of 8, an 8x4 kernel and 4 biases; 2 x 8
# statistics.
PARAMS = 4 * (72 + 16 + 36)


STATS = 4 * 16


LEDGER = {
  "bn": ("bn", {}, PARAMS + STATS, PARAMS + STATS),
  "moments": ("bn", {"batch_stats": "moments"}, PARAMS + STATS, PARAMS + STATS),
  "bgn": ("bgn", {}, PARAMS + 16, PARAMS + 16),  # two means and two variances
  "gn": ("gn", {}, PARAMS, PARAMS),
  "none": ("none", {}, 4 * (72 + 8 + 36), 4 * (72 + 8 + 36)),
  "fixbn": ("fixbn", {}, PARAMS + STATS, PARAMS + STATS),
  "fixbn frozen": ("frozen", {}, PARAMS, PARAMS + STATS),
  "silobn": ("bn", {"batch_stats": "local"}, PARAMS, PARAMS),
  "fedbn": ("bn", {"batch_stats": "local", "fedbn": True}, PARAMS - 64, PARAMS - 64),
  "recalibrate": ("bn", {"batch_stats": "recalibrate"}, PARAMS, PARAMS),
  "recalibrate frozen": ("frozen", {"batch_stats": "recalibrate"}, PARAMS, PARAMS + STATS),
  "momentum local": ("gn", {"client_momentum": "local"}, PARAMS, PARAMS),
  "momentum global": ("gn", {"client_momentum": "global"}, 2 * PARAMS, 2 * PARAMS),
}


def ledger(world, name, mapping=SCAN, **options):
  config = configure(FedAvgConfig, HEAVY, local_steps=2, **options)
  arguments = (world.model(name), mapping, world.data(), world.transform(), SHAPE)
  return built(FEDAVG, config, *arguments).cost


@pytest.mark.parametrize("case", LEDGER)
def test_ledger_by_hand(world, case):
  name, options, up, down = LEDGER[case]
  cost = ledger(world, name, **options)
  assert cost.of_round([2, 3, 5]) == Traffic(3 * up, 3 * down, 1)


def test_sync_bn_is_charged_in_every_step(world):
  mapping = client_mapping.create("vmap", num_clients=3, lockstep=True)
  cost = ledger(world, "sync_bn", mapping)
  # Each way: count, 8 means and 8 m2 forward, 2 x 8 sums backward. A step has two exchanges, and
  # all clients wait for the one with the most steps.
  step = 4 * (1 + 8 + 8) + 4 * 16
  model = PARAMS + STATS
  total = 3 * model + 10 * step
  assert cost.of_round([2, 3, 5]) == Traffic(total, total, 1 + 2 * 5)


@pytest.mark.parametrize(("name", "numbers"), [("bn", 17), ("bgn", 5)])
def test_cost_of_recalibration(world, name, numbers):
  source = world.source
  ids = np.arange(60)
  partition = Partition(ids, np.array([0, 20, 40, 60]))
  task = make_task(source, partition, SPECS[name])._replace(model=world.model(name))
  config = configure(config_of(FEDAVG), FOUR, batch_stats="recalibrate", rounds=2, eval_every=1)
  program = make_program(FEDAVG, task, config)
  (phase,) = program.phases.values()
  # A pass of three clients: the model down; count, means and m2 of 8 channels or 2 groups up.
  assert phase.recalibrate_cost.of_round([0, 0, 0]) == Traffic(3 * 4 * numbers, 3 * PARAMS, 1)
  # A pass over five batches of four takes a third of the time of five training steps.
  np.testing.assert_allclose(phase.recalibrate_steps, [5 / 3] * 3)
