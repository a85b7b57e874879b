"""Policies for batch statistics, FedBN and recalibration, and the traffic of FedAvg by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fedavg_world import (
  FOUR,
  HEAVY,
  KEY,
  SCAN,
  SHAPE,
  SIZES,
  SPECS,
  random_variables,
  same_bits,
  slow,
)
from helpers.reference_fedavg import close, distance
from helpers.settings import built, configure

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.batch_statistics import DataPart, make_recalibrate
from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.training.build_program import make_program
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.task.task import make_task


@pytest.mark.parametrize(
  ("name", "policy"),
  [("bn", "moments"), ("bn", "local"), ("bn", "recalibrate"), ("bgn", "moments")],
)
def test_statistics_policy(world, name, policy):
  config = configure(FedAvgConfig, FOUR, local_steps=2, batch_stats=policy)
  fast = world.fast(name, config)
  before = fast.begin()[0].variables["batch_stats"]
  server, clients, _ = fast.run()
  expected = slow(fast)
  close(server.variables["params"], expected.params)
  close(server.variables["batch_stats"], expected.stats)
  if policy == "moments":
    usual = dataclasses.replace(fast, config=dataclasses.replace(config, batch_stats="mean"))
    assert distance(slow(usual).stats, expected.stats) > 1e-4
  else:
    same_bits(server.variables["batch_stats"], before)
  if policy == "local":
    for k, client in enumerate(expected.clients):
      mine = jax.tree.map(lambda a, k=k: a[k], clients)
      close(mine.batch_stats, client.stats)
      assert distance(mine.batch_stats, before) > 1e-3
      model = fast.algorithm.views.client(server, mine)
      same_bits(model, {**server.variables, "batch_stats": mine.batch_stats})


def test_fedbn_does_not_send_norm_parameters(world):
  config = configure(
    FedAvgConfig, HEAVY, local_steps=2, client_momentum="local", batch_stats="local", fedbn=True
  )
  fast = world.fast("bn", config)
  before = fast.begin()[0].variables
  server, clients, _ = fast.run()
  expected = slow(fast)
  close(server.variables["params"], expected.params)
  same_bits(server.variables["params"]["Norm_0"], before["params"]["Norm_0"])
  same_bits(server.variables["batch_stats"], before["batch_stats"])
  assert distance(server.variables["params"]["Conv_0"], before["params"]["Conv_0"]) > 1e-3
  for k, client in enumerate(expected.clients):
    mine = jax.tree.map(lambda a, k=k: a[k], clients)
    close(mine.params, client.norm_params)
    close(mine.batch_stats, client.stats)
    model = fast.algorithm.views.client(server, mine)
    close(model["params"], {**expected.params, **client.norm_params})
    close(model["batch_stats"], client.stats)


@pytest.mark.parametrize(("name", "groups"), [("bn", 8), ("bgn", 2)])
@pytest.mark.host_devices
def test_recalibrated_statistics_are_the_moments_of_all_data(world, name, groups):
  model, data, transform = world.model(name), world.data(), world.transform()
  variables = random_variables(model)
  mapping = client_mapping.create("shard_map", num_clients=len(SIZES))
  recalibrate = make_recalibrate(model, mapping, 4, transform)
  place = placer(mapping)
  # Two devices: in the first part each has a client, in the second only the first device does.
  parts = [
    DataPart(place(data), place(np.int32(rows))) for rows in ([[1], [0]], [[3, 2], [-1, -1]])
  ]
  stats = recalibrate(place(variables), parts, place(KEY))
  images = transform(jnp.asarray(data.images[data.order]), None, None, None, None)
  kernel = variables["params"]["Conv_0"]["kernel"]
  inputs = jax.lax.conv_general_dilated(
    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  inputs = np.asarray(inputs, np.float64).reshape(-1, groups, 8 // groups)
  mean, var = inputs.mean((0, 2)), inputs.var((0, 2), ddof=1)
  close(stats, {"Norm_0": {"mean": mean, "var": var}})


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
