"""Asynchronous SGD against an event loop, against SSGD, and its order of arrivals."""

import math

import helpers.reference_fedavg as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.asgd_world import (
  EVENTS,
  KEY,
  RATE,
  SHAPE,
  SIZES,
  World,
  arrivals,
  begin,
  built_asgd,
  event_loop,
  run_from_start,
  runner,
)
from helpers.reference_fedavg import close, flat
from helpers.settings import built, configure, plain

from fedjax_norm import client_mapping, models, norm, tree_leaves
from fedjax_norm.algorithms.asgd import ASGD, AsgdConfig
from fedjax_norm.algorithms.round_algorithm import RoundContext
from fedjax_norm.algorithms.ssgd import SSGD, SsgdConfig
from fedjax_norm.errors import UserError

HEAVY = plain(batch_size=4, momentum=0.9, weight_decay=5e-3, clip_norm=2.0)


PLAIN = configure(AsgdConfig, HEAVY)


PAIRS = configure(AsgdConfig, plain(batch_size=2))


@pytest.fixture(scope="module")
def world(tiny_source, tiny_net):
  return World(tiny_source, tiny_net)


RENORM = norm.create("brn", renorm=norm.Renorm(r_max=1.5, d_max=0.5, start=0, r_end=1, d_end=1))


CASES = {
  "none": ("bn", {}, {}),
  "constant": ("bn", {"delay_compensation": "constant", "delay_lambda": 3.0}, {"strength": 3.0}),
  "adaptive, the paper's": (
    "bn",
    {"delay_compensation": "adaptive"},
    {"strength": 2.0, "decay": 0.95},
  ),
  "adaptive, without memory": (
    "bn",
    {"delay_compensation": "adaptive", "delay_lambda": 0.5, "delay_decay": 0.0},
    {"strength": 0.5, "decay": 0.0},
  ),
  "a norm that uses stale statistics in training": (RENORM, {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_an_event_loop(world, case):
  spec, options, loop_options = CASES[case]
  data = world.data()
  model, algorithm = world.algorithm(spec, configure(AsgdConfig, HEAVY, **options))
  server, columns, metrics = run_from_start(model, algorithm, data, EVENTS)
  expected = event_loop(model, data, world.transform, HEAVY, **loop_options)
  assert arrivals(columns) == expected.workers
  counts = np.arange(1, EVENTS + 1)
  np.testing.assert_allclose(columns["staleness_mean"], np.cumsum(expected.staleness) / counts)
  assert columns["staleness_max"].tolist() == np.maximum.accumulate(expected.staleness).tolist()
  np.testing.assert_allclose(columns["simulated_seconds"], expected.seconds, rtol=1e-6)
  close(server.variables["params"], expected.params)
  close(server.variables["batch_stats"], expected.stats)
  assert metrics.examples.tolist() == expected.examples


def test_each_compensation_changes_the_result(world):
  # Uses the event loop only, which the library equals by the test above.
  model, data = world.net(norm=norm.create("bn")), world.data()
  results = [
    event_loop(model, data, world.transform, HEAVY, **CASES[case][2]).params
    for case in list(CASES)[:4]
  ]
  for index, one in enumerate(results):
    for other in results[:index]:
      assert max(np.abs(one[path] - other[path]).max() for path in one) > 1e-3


@pytest.fixture(scope="module")
def synchronous(world):
  """Returns (server state, metrics) of seven steps of SSGD with a single client."""
  model, data = world.net(norm=norm.create("bn"), dropout=0.3), world.data((10,))
  mapping = client_mapping.create("scan", num_clients=1)
  algorithm = built(
    SSGD, configure(SsgdConfig, HEAVY), model, mapping, data, world.transform, SHAPE
  )
  sync_server, _, metrics = run_from_start(model, algorithm, data, 7)
  return sync_server, metrics


@pytest.mark.parametrize("mode", ["none", "adaptive"])
def test_one_worker_is_sgd(world, synchronous, mode):
  config = configure(AsgdConfig, HEAVY, delay_compensation=mode)
  model, algorithm = world.algorithm("bn", config, np.array([0.7]), dropout=0.3)
  server, columns, metrics = run_from_start(model, algorithm, world.data((10,)), 7)
  sync_server, sync_metrics = synchronous
  close(server.variables, sync_server.variables, atol=1e-6)
  actual, expected = (optax.tree.get(s.opt_state, "trace") for s in (server, sync_server))
  close(actual, expected, atol=1e-6)
  np.testing.assert_allclose(metrics.loss, sync_metrics.loss, rtol=1e-5)
  assert columns["staleness_max"].max() == 0
  assert columns["staleness_mean"].max() == 0
  np.testing.assert_allclose(columns["simulated_seconds"], 0.7 * np.arange(1, 8), rtol=1e-6)


def test_workers_of_equal_speed_arrive_in_order(world):
  data = world.data()
  model, algorithm = world.algorithm("none", PAIRS, np.full(4, 0.3))
  run = runner(algorithm, data, 14)
  server, columns, _ = run(algorithm.init(begin(model)))
  assert arrivals(columns) == [event % 4 for event in range(14)]
  staleness = np.minimum(np.arange(14), 3)
  np.testing.assert_allclose(columns["staleness_mean"], staleness.cumsum() / np.arange(1, 15))
  assert columns["staleness_max"].tolist() == staleness.tolist()
  np.testing.assert_allclose(columns["simulated_seconds"], 0.3 * (np.arange(14) // 4 + 1))
  # The clock counts every tick after a very long time, too.
  late = server._replace(elapsed=jnp.array([100_000_000, 2**30 - 1], jnp.int32))
  late, columns, _ = run(late)
  multiples, rest = map(int, late.elapsed)
  assert (multiples, rest) == (100_000_003, 2**30 - 1)
  assert columns["simulated_seconds"][-1] == pytest.approx(0.3 * 100_000_004, rel=1e-6)


def test_a_worker_arrives_in_proportion_to_its_speed(world):
  seconds = np.array([4.0, 1.0, 16.0, 2.0])
  data = world.data()
  model, algorithm = world.algorithm("none", PAIRS, seconds)
  server, columns, _ = run_from_start(model, algorithm, data, 4 + 16 + 1 + 8)
  assert server.steps.tolist() == [4, 16, 1, 8]
  assert columns["simulated_seconds"][-1] == 16
  # Worker 2 pulled at time 0; workers 0 and 1, which arrive at the same time, come before it.
  assert columns["staleness_max"][-1] == 4 + 16 + 7


def test_an_event_takes_at_least_a_tick(world):
  model, algorithm = world.algorithm("none", PAIRS, np.array([1e-12, 1.0]))
  server = algorithm.init(begin(model))
  assert server.wait.tolist() == [1, 2**30]


def test_each_part_of_a_batch_updates_the_statistics(world):
  # Client 0 has 5 examples: a batch of 4 in two parts, then one of 1 whose second part is empty.
  config = plain(batch_size=4, accumulate=2)
  data = world.data((5, 5))
  model, algorithm = world.algorithm("bn", configure(AsgdConfig, config), np.array([1.0, 1.5]))
  server, columns, _ = run_from_start(model, algorithm, data, 6)
  workers, batch = arrivals(columns), reference.batch_drawer(data, 4, world.transform, KEY)
  variables = begin(model)
  w, stats = flat(variables["params"]), flat(variables["batch_stats"])
  zeros = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  copies, steps = [w, w], [0, 0]
  for worker in workers:
    b = batch(worker, steps[worker])
    total, count = zeros, float(b.mask.sum())
    for part in (slice(0, 2), slice(2, 4)):
      piece = jax.tree.map(lambda a, part=part: a[part], b)
      if piece.mask.any():
        grads, stats = reference.batch_gradient(model, copies[worker], stats, piece)
        share = float(piece.mask.sum()) / count
        total = {path: total[path] + share * grads[path] for path in total}
    w, _ = reference.sgd_step(config, w, zeros, total, w, RATE)
    copies[worker], steps[worker] = w, steps[worker] + 1
  assert workers[:3] == [0, 1, 0]
  close(server.variables["params"], w)
  close(server.variables["batch_stats"], stats)


def test_frozen_statistics_do_not_change_if_workers_pulled_others(world):
  data, spec = world.data(), norm.create("fixbn").frozen()
  model, algorithm = world.algorithm(spec, PLAIN)
  start = begin(model)
  server = algorithm.init(start)
  older = optax.tree.scale(2.0, server.pulled["batch_stats"])
  server = server._replace(pulled={**server.pulled, "batch_stats": older})
  server, _, _ = runner(algorithm, data, 5)(server)
  assert (
    optax.tree.norm(optax.tree.sub(server.variables["params"], start["params"]), squared=True) > 0
  )
  close(server.variables["batch_stats"], start["batch_stats"], atol=0)


def test_cost(world):
  model, algorithm = world.algorithm("bn", PLAIN)
  variables = begin(model)
  assert algorithm.cost.up == algorithm.cost.down == tree_leaves.num_bytes(variables)
  assert algorithm.cost.step_trips == 0
  # One worker arrives per round.
  assert algorithm.local_steps(np.array(SIZES)).tolist() == [1]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"delay_compensation": "some"}, "unknown delay_compensation 'some'; choose one of none, con"),
    ({"delay_lambda": 1.0}, "delay_lambda does nothing here: it needs --delay_compensation"),
    ({"delay_compensation": "constant", "delay_lambda": 0.0}, "delay_lambda is 0; it must be"),
    ({"delay_compensation": "adaptive", "delay_lambda": math.nan}, "delay_lambda is nan"),
    ({"delay_compensation": "constant", "delay_decay": 0.5}, "delay_decay does nothing here"),
    ({"delay_compensation": "adaptive", "delay_decay": 1.0}, "delay_decay is 1; it must be"),
    ({"batch_stats": "moments"}, "batch_stats=moments combines the statistics of several workers"),
  ],
)
def test_contradicting_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    AsgdConfig(**options)


def test_a_run_without_a_network_is_refused(world, tiny_net):
  model, mapping = tiny_net(norm=norm.create("gn")), client_mapping.create("scan", num_clients=1)
  with pytest.raises(UserError, match="runs on a simulated clock; give a network"):
    built(ASGD, PLAIN, model, mapping, world.data(), world.transform, SHAPE)


def test_a_norm_across_workers_is_refused(world):
  with pytest.raises(UserError, match="'sync_bn' merges the batches of all clients"):
    world.algorithm("sync_bn", PLAIN)


def test_phases_with_shorter_events_use_the_same_ticks(world):
  """FixBN's second phase sends less: one worker, first with 2 s per event, then with 1 s."""
  context = RoundContext(world.data((7,)), jnp.int32(0), jnp.float32(RATE), KEY)
  algorithms = [
    built_asgd(world, world.net(norm=norm.create("none")), PLAIN, np.array([s]), 2.0)
    for s in (2.0, 1.0)
  ]
  server = algorithms[0].init(models.init(world.net(norm=norm.create("none")), KEY, SHAPE))
  for algorithm, events in zip(algorithms, (3, 4), strict=True):
    step = jax.jit(algorithm.round)
    for _ in range(events):
      server, _, _ = step(server, (), jnp.zeros(1, jnp.int32), context)
  # The event that has begun before the change keeps its duration.
  assert algorithms[0].report.columns(server)["simulated_seconds"] == 4 * 2.0 + 3 * 1.0
