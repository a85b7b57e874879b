"""Asynchronous SGD against an event loop with a heap, against SSGD, and its order of arrivals."""

import dataclasses
import heapq
import math
from types import SimpleNamespace

import helpers.reference_fedavg as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.reference_fedavg import flat
from helpers.settings import built, configure, plain
from jax import lax

from fedjax_norm import client_mapping, models, norm, tree_leaves
from fedjax_norm.algorithms.algorithm import RoundContext
from fedjax_norm.algorithms.asgd import ASGD, AsgdConfig
from fedjax_norm.algorithms.ssgd import SSGD, SsgdConfig
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError

SHAPE = (6, 6, 1)
SIZES = (5, 9, 12, 4)  # with batches of 4, the last of an epoch is padded
SECONDS = np.array([1.0, 0.37, 2.3, 0.61])
KEY = jax.random.key(7)
RATE = 0.2
HEAVY = plain(batch_size=4, momentum=0.9, weight_decay=5e-3, clip_norm=2.0)
PLAIN = configure(AsgdConfig, HEAVY)
PAIRS = configure(AsgdConfig, plain(batch_size=2))
EVENTS = 20


class World:
  """A federation of the tiny images and the models for it."""

  def __init__(self, source, net):
    self.source, self.net = source, net
    self.transform = make_transforms(Preprocess(augment="none"), source.train.images)[0]

  def data(self, sizes=SIZES):
    ids = np.random.default_rng(3).permutation(len(self.source.train.labels))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return federate(self.source.train, Partition(ids[: offsets[-1]], offsets))

  def algorithm(self, spec, config, seconds=SECONDS, **fields):
    spec = norm.create(spec) if isinstance(spec, str) else spec
    model = self.net(norm=spec, **fields)
    return model, built_asgd(self, model, config, seconds)


def built_asgd(world, model, config, seconds, longest=None):
  """ASGD whose workers need given times, at most the longest."""
  answers = [np.array([longest or np.max(seconds)]), seconds]  # of the whole model, of an event
  clock = SimpleNamespace(event_seconds=lambda cost: answers.pop(0))
  mapping = client_mapping.create("scan", num_clients=1)
  return built(ASGD, config, model, mapping, world.data(), world.transform, SHAPE, clock=clock)


@pytest.fixture(scope="module")
def world(tiny_source, tiny_net):
  return World(tiny_source, tiny_net)


def begin(model):
  """Initial variables, with statistics that differ from what a batch has."""
  variables = models.init(model, jax.random.key(1), SHAPE)
  return jax.tree.map(lambda a: a + 0.1, variables)


def runner(algorithm, data, rounds):
  """A compiled server -> (the last state, columns and metrics after every round).

  Of an asynchronous server, the columns have ``steps`` too.
  """
  cohort = jnp.arange(data.num_clients)

  @jax.jit
  def run(server, data):
    def one(server, index):
      context = RoundContext(data, index, jnp.float32(RATE), KEY)
      server, _, metrics = algorithm.round(server, algorithm.init_client(server), cohort, context)
      columns = algorithm.report.columns(server)
      if columns:
        columns["steps"] = server.steps
      return server, (columns, metrics)

    return lax.scan(one, server, jnp.arange(rounds))

  def call(server):
    server, seen = run(server, data)
    return server, *jax.tree.map(np.asarray, seen)

  return call


def begun(model, algorithm, data, rounds):
  """What a ``runner`` returns from the beginning."""
  return runner(algorithm, data, rounds)(algorithm.init(begin(model)))


def arrivals(columns):
  """The worker of each event."""
  steps = columns["steps"]
  return np.diff(steps, axis=0, prepend=0 * steps[:1]).argmax(1).tolist()


def close(actual, expected, atol=2e-5):
  actual, expected = flat(actual), flat(expected)
  assert actual.keys() == expected.keys()
  for path in expected:
    np.testing.assert_allclose(actual[path], expected[path], rtol=1e-4, atol=atol, err_msg=path)


@dataclasses.dataclass
class Slow:
  """What the event loop has seen."""

  params: dict
  stats: dict
  workers: list
  staleness: list
  seconds: list
  examples: list


def event_loop(model, data, transform, config, strength=0.0, decay=None, seconds=SECONDS):
  """Asynchronous SGD with a heap of arrivals, NumPy and float64; ``decay`` makes it adaptive."""
  variables = begin(model)
  w, stats = flat(variables["params"]), flat(variables["batch_stats"])
  trace = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  square = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  batch = reference.batch_drawer(data, config.batch_size, transform, KEY)
  heap = [(second, worker) for worker, second in enumerate(seconds)]
  heapq.heapify(heap)
  copies = [(w, stats, 0)] * len(seconds)  # what each worker has pulled, and when
  taken = [0] * len(seconds)
  seen = Slow(w, stats, [], [], [], [])
  for update in range(EVENTS):
    now, worker = heapq.heappop(heap)
    stale, stale_stats, pulled_at = copies[worker]
    b = batch(worker, taken[worker])
    grads, _ = reference.batch_gradient(model, stale, stale_stats, b, update)
    # The running statistics of the master move by the batch's own, whatever it started from.
    _, stats = reference.batch_gradient(model, stale, stats, b, update)
    factor = strength
    corrected = {}
    for path, g in grads.items():
      if decay is not None:
        square[path] = decay * square[path] + (1 - decay) * g**2
        factor = strength / np.sqrt(square[path] + 1e-7)
      corrected[path] = g + factor * g**2 * (w[path] - stale[path])
    w, trace = reference.sgd_step(config, w, trace, corrected, w, RATE)
    seen.workers.append(worker)
    seen.staleness.append(update - pulled_at)
    seen.seconds.append(now)
    seen.examples.append(int(b.mask.sum()))
    taken[worker] += 1
    copies[worker] = (w, stats, update + 1)
    heapq.heappush(heap, (now + seconds[worker], worker))
  seen.params, seen.stats = w, stats
  return seen


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
  "a norm that trains with its stale statistics": (RENORM, {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_an_event_loop(world, case):
  spec, options, slow_options = CASES[case]
  data = world.data()
  model, algorithm = world.algorithm(spec, configure(AsgdConfig, HEAVY, **options))
  server, columns, metrics = begun(model, algorithm, data, EVENTS)
  slow = event_loop(model, data, world.transform, HEAVY, **slow_options)
  assert arrivals(columns) == slow.workers
  counts = np.arange(1, EVENTS + 1)
  np.testing.assert_allclose(columns["staleness_mean"], np.cumsum(slow.staleness) / counts)
  assert columns["staleness_max"].tolist() == np.maximum.accumulate(slow.staleness).tolist()
  np.testing.assert_allclose(columns["simulated_seconds"], slow.seconds, rtol=1e-6)
  close(server.variables["params"], slow.params)
  close(server.variables["batch_stats"], slow.stats)
  assert metrics.examples.tolist() == slow.examples


def test_each_compensation_makes_a_difference(world):
  # by the event loop alone, which the test above binds the library to
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
  """(the master, metrics) of seven steps of SSGD with a single worker."""
  model, data = world.net(norm=norm.create("bn"), dropout=0.3), world.data((10,))
  mapping = client_mapping.create("scan", num_clients=1)
  algorithm = built(
    SSGD, configure(SsgdConfig, HEAVY), model, mapping, data, world.transform, SHAPE
  )
  master, _, metrics = begun(model, algorithm, data, 7)
  return master, metrics


@pytest.mark.parametrize("mode", ["none", "adaptive"])
def test_one_worker_is_sgd(world, synchronous, mode):
  config = configure(AsgdConfig, HEAVY, delay_compensation=mode)
  model, algorithm = world.algorithm("bn", config, np.array([0.7]), dropout=0.3)
  server, columns, metrics = begun(model, algorithm, world.data((10,)), 7)
  master, sync_metrics = synchronous
  close(server.variables, master.variables, atol=1e-6)
  close(optax.tree.get(server.opt_state, "trace"), optax.tree.get(master.opt_state, "trace"), 1e-6)
  np.testing.assert_allclose(metrics.loss, sync_metrics.loss, rtol=1e-5)
  assert columns["staleness_max"].max() == 0
  assert columns["staleness_mean"].max() == 0
  np.testing.assert_allclose(columns["simulated_seconds"], 0.7 * np.arange(1, 8), rtol=1e-6)


def test_equal_speeds_take_turns(world):
  data = world.data()
  model, algorithm = world.algorithm("none", PAIRS, np.full(4, 0.3))
  run = runner(algorithm, data, 14)
  server, columns, _ = run(algorithm.init(begin(model)))
  assert arrivals(columns) == [event % 4 for event in range(14)]
  staleness = np.minimum(np.arange(14), 3)
  np.testing.assert_allclose(columns["staleness_mean"], staleness.cumsum() / np.arange(1, 15))
  assert columns["staleness_max"].tolist() == staleness.tolist()
  np.testing.assert_allclose(columns["simulated_seconds"], 0.3 * (np.arange(14) // 4 + 1))
  # A year later the clock still counts every tick.
  late = server._replace(elapsed=jnp.array([100_000_000, 2**30 - 1], jnp.int32))
  late, columns, _ = run(late)
  whole, rest = map(int, late.elapsed)
  assert (whole, rest) == (100_000_003, 2**30 - 1)
  assert columns["simulated_seconds"][-1] == pytest.approx(0.3 * 100_000_004, rel=1e-6)


def test_a_worker_arrives_as_often_as_its_speed_says(world):
  seconds = np.array([4.0, 1.0, 16.0, 2.0])
  data = world.data()
  model, algorithm = world.algorithm("none", PAIRS, seconds)
  server, columns, _ = begun(model, algorithm, data, 4 + 16 + 1 + 8)
  assert server.steps.tolist() == [4, 16, 1, 8]
  assert columns["simulated_seconds"][-1] == 16
  # worker 2 pulled at time 0; of those that arrive when it does, workers 0 and 1 are before it
  assert columns["staleness_max"][-1] == 4 + 16 + 7


def test_a_worker_far_too_fast_still_takes_time(world):
  model, algorithm = world.algorithm("none", PAIRS, np.array([1e-12, 1.0]))
  server = algorithm.init(begin(model))
  assert server.wait.tolist() == [1, 2**30]


def test_parts_of_a_batch_move_statistics_once_each(world):
  # Client 0 has 5 examples: after a batch of 4 in two parts comes one of 1, whose second is empty.
  config = plain(batch_size=4, accumulate=2)
  data = world.data((5, 5))
  model, algorithm = world.algorithm("bn", configure(AsgdConfig, config), np.array([1.0, 1.5]))
  server, columns, _ = begun(model, algorithm, data, 6)
  workers, batch = arrivals(columns), reference.batch_drawer(data, 4, world.transform, KEY)
  variables = begin(model)
  w, stats = flat(variables["params"]), flat(variables["batch_stats"])
  zeros = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  copies, taken = [w, w], [0, 0]
  for worker in workers:
    b = batch(worker, taken[worker])
    total, count = zeros, float(b.mask.sum())
    for part in (slice(0, 2), slice(2, 4)):
      piece = jax.tree.map(lambda a, part=part: a[part], b)
      if piece.mask.any():
        grads, stats = reference.batch_gradient(model, copies[worker], stats, piece)
        share = float(piece.mask.sum()) / count
        total = {path: total[path] + share * grads[path] for path in total}
    w, _ = reference.sgd_step(config, w, zeros, total, w, RATE)
    copies[worker], taken[worker] = w, taken[worker] + 1
  assert workers[:3] == [0, 1, 0]
  close(server.variables["params"], w)
  close(server.variables["batch_stats"], stats)


def test_frozen_statistics_stay_though_workers_pulled_older_ones(world):
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


def test_what_is_sent(world):
  model, algorithm = world.algorithm("bn", PLAIN)
  variables = begin(model)
  assert algorithm.cost.up == algorithm.cost.down == tree_leaves.num_bytes(variables)
  assert algorithm.cost.step_trips == 0
  # one worker is heard an event
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
    ({"batch_stats": "moments"}, "batch_stats=moments combines workers that are heard together"),
  ],
)
def test_options_that_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    AsgdConfig(**options)


def test_a_run_without_a_network_is_refused(world, tiny_net):
  model, mapping = tiny_net(norm=norm.create("gn")), client_mapping.create("scan", num_clients=1)
  with pytest.raises(UserError, match="runs on a simulated clock; give a network"):
    built(ASGD, PLAIN, model, mapping, world.data(), world.transform, SHAPE)


def test_a_norm_across_workers_is_refused(world):
  with pytest.raises(UserError, match="'sync_bn' merges the batches of all clients"):
    world.algorithm("sync_bn", PLAIN)


def test_phases_with_cheaper_events_count_in_the_same_ticks(world):
  """As when FixBN's second phase sends less: one worker, first at 2 s an event, then at 1 s."""
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
  # The event that was under way at the change lasts as long as it was to.
  assert algorithms[0].report.columns(server)["simulated_seconds"] == 4 * 2.0 + 3 * 1.0
