"""Policies for batch statistics, FedBN and recalibration, against the slow reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fedavg_world import (
  FOUR,
  HEAVY,
  KEY,
  SIZES,
  close,
  distance,
  random_variables,
  same_bits,
  slow,
)
from helpers.settings import configure

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.batch_statistics import DataPart, make_recalibrate
from fedjax_norm.algorithms.fedavg import FedAvgConfig
from fedjax_norm.training.placement.device_arrays import placer


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
