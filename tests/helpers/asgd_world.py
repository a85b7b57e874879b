"""Asynchronous SGD on a small federated data set, by the library and by an event loop."""

import dataclasses
import heapq
from types import SimpleNamespace

import helpers.reference_fedavg as reference
import jax
import jax.numpy as jnp
import numpy as np
from helpers.reference_fedavg import flat
from helpers.settings import built
from jax import lax

from fedjax_norm import client_mapping, models, norm
from fedjax_norm.algorithms.asgd import ASGD
from fedjax_norm.algorithms.round_algorithm import RoundContext
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms

SHAPE = (6, 6, 1)


SIZES = (5, 9, 12, 4)  # with batches of 4, the last of an epoch is padded


SECONDS = np.array([1.0, 0.37, 2.3, 0.61])


KEY = jax.random.key(7)


RATE = 0.2


EVENTS = 20


class World:
  """The small federated data set and the models for it."""

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
  """Builds ASGD with the given seconds of each worker's event, and those of the longest event."""
  event_seconds = [
    np.array([longest or np.max(seconds)]),
    seconds,
  ]  # with the whole model, and with the parts that are sent
  clock = SimpleNamespace(event_seconds=lambda cost: event_seconds.pop(0))
  mapping = client_mapping.create("scan", num_clients=1)
  return built(ASGD, config, model, mapping, world.data(), world.transform, SHAPE, clock=clock)


def begin(model):
  """Returns initial variables whose statistics differ from those of a batch."""
  variables = models.init(model, jax.random.key(1), SHAPE)
  return jax.tree.map(lambda a: a + 0.1, variables)


def runner(algorithm, data, rounds):
  """Makes a compiled function server state -> (last state, columns and metrics of every round).

  For ASGD the columns include ``steps``.
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
    server, rounds = run(server, data)
    return server, *jax.tree.map(np.asarray, rounds)

  return call


def run_from_start(model, algorithm, data, rounds):
  """Returns the result of a ``runner`` from the initial state."""
  return runner(algorithm, data, rounds)(algorithm.init(begin(model)))


def arrivals(columns):
  """Returns the worker of each event."""
  steps = columns["steps"]
  return np.diff(steps, axis=0, prepend=0 * steps[:1]).argmax(1).tolist()


@dataclasses.dataclass
class Events:
  """The result of the event loop: the final model, and the values of every event."""

  params: dict
  stats: dict
  workers: list
  staleness: list
  seconds: list
  examples: list


def event_loop(model, data, transform, config, strength=0.0, decay=None, seconds=SECONDS):
  """Runs ASGD with a heap of arrivals in float64; ``decay`` makes the compensation adaptive."""
  variables = begin(model)
  w, stats = flat(variables["params"]), flat(variables["batch_stats"])
  trace = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  square = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  batch = reference.batch_drawer(data, config.batch_size, transform, KEY)
  heap = [(second, worker) for worker, second in enumerate(seconds)]
  heapq.heapify(heap)
  copies = [(w, stats, 0)] * len(
    seconds
  )  # (weights, statistics, number of updates) when each worker pulled
  steps = [0] * len(seconds)
  events = Events(w, stats, [], [], [], [])
  for update in range(EVENTS):
    now, worker = heapq.heappop(heap)
    stale, stale_stats, pulled_at = copies[worker]
    b = batch(worker, steps[worker])
    grads, _ = reference.batch_gradient(model, stale, stale_stats, b, update)
    # The batch changes the server's running statistics as it would change any others.
    _, stats = reference.batch_gradient(model, stale, stats, b, update)
    factor = strength
    corrected = {}
    for path, g in grads.items():
      if decay is not None:
        square[path] = decay * square[path] + (1 - decay) * g**2
        factor = strength / np.sqrt(square[path] + 1e-7)
      corrected[path] = g + factor * g**2 * (w[path] - stale[path])
    w, trace = reference.sgd_step(config, w, trace, corrected, w, RATE)
    events.workers.append(worker)
    events.staleness.append(update - pulled_at)
    events.seconds.append(now)
    events.examples.append(int(b.mask.sum()))
    steps[worker] += 1
    copies[worker] = (w, stats, update + 1)
    heapq.heappush(heap, (now + seconds[worker], worker))
  events.params, events.stats = w, stats
  return events
