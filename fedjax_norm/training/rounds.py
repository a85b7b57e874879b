"""Compiles and runs the rounds of an interval, and sums their traffic and simulated time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.algorithms.costs.clock import ClientTraffic
from fedjax_norm.algorithms.costs.ledger import Cost, Traffic
from fedjax_norm.algorithms.round_algorithm import Algorithm, RoundContext
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.local_training import Metrics
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.interval_planner import Interval
from fedjax_norm.training.placement.client_placement import Placement
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.data_feed import Feed
from fedjax_norm.training.placement.device_arrays import Place, placer
from fedjax_norm.training.placement.distributed_feed import DistributedClientStore, DistributedFeed
from fedjax_norm.training.program_types import Phase, Program
from fedjax_norm.typing import Array, Key, PyTree

# Maximum bytes of client states on the device, for the rounds that run without new data.
_STATE_BUDGET = 2**30


class Spent(NamedTuple):
  """Traffic and simulated time of one or more rounds.

  Attributes:
    traffic: bytes and round trips.
    simulated: seconds of the program's simulated clock; 0 without a clock.
  """

  traffic: Traffic = Traffic()
  simulated: float = 0.0

  def __add__(self, other: Any) -> "Spent":
    """Returns the sum, field by field."""
    return Spent(self.traffic + other.traffic, self.simulated + other.simulated)


class RunContext(NamedTuple):
  """Everything that the rounds of a run need except the server state.

  Attributes:
    program: the program of the run.
    store: the client states.
    sizes: [K] number of examples of each client, on the host.
    feed: supplies the training data of each round.
    key: random key of the run, on the device.
    place: function that puts a pytree on the devices of the program.
  """

  program: Program
  store: ClientStore
  sizes: np.ndarray
  feed: Feed | DistributedFeed
  key: Key
  place: Place

  @classmethod
  def create(
    cls, program: Program, config: LoopConfig, data: FederatedData, store: ClientStore, start: int
  ) -> "RunContext":
    """Returns the context of a run from round ``start``; use its ``feed`` in a with statement."""
    cohort, mapping, size = config.cohort_of(data.num_clients), program.mapping, store.client_bytes
    place = placer(mapping)
    key = place(jax.random.key(config.seed))
    lengths = {"rounds": config.rounds, "cohort": cohort}
    lengths["longest"] = min(config.eval_every, config.rounds)
    steps = program.unequal_steps
    feed: Feed | DistributedFeed
    if mapping.multi_process:
      feed = DistributedFeed(data, mapping, key, client_bytes=size, steps=steps, **lengths)
    else:
      if data.num_clients * size > _STATE_BUDGET:
        lengths["longest"] = max(1, min(lengths["longest"], _STATE_BUDGET // (cohort * size)))
      on_host = program.data_on == "host"
      feed = Feed(data, mapping, key, on_host=on_host, start=start, steps=steps, **lengths)
    return cls(program, store, np.asarray(data.sizes), feed, key, place)


def make_client_store(mapping: ClientMapping, one: PyTree, num_clients: int) -> ClientStore:
  """Returns the store of the client states, which all start as ``one``.

  With several processes it has only the states of the clients on this process's devices.
  """
  if mapping.multi_process:
    placement = Placement(num_clients, mapping.num_devices)
    return DistributedClientStore(one, mapping, placement, num_clients)
  return ClientStore(one, num_clients)


def run_interval(
  run: RunContext, interval: Interval, server: PyTree
) -> tuple[PyTree, Metrics, Spent]:
  """Runs the rounds of an interval and updates the client states.

  If the traffic depends on the values sent (sparse updates), the simulated clock assumes the
  interval's mean traffic in every round.

  Returns:
    (server state, training metrics on the host, traffic and simulated time of the rounds).
  """
  algorithm = run.program.phases[interval.phase].algorithm
  before = sent_so_far(algorithm, server)
  server, total, cohorts = run_rounds(run, interval, server)
  return server, total, spent(run, algorithm, cohorts, sent_so_far(algorithm, server).minus(before))


def sent_so_far(algorithm: Algorithm, server: PyTree) -> Traffic:
  """Returns the traffic since the start of the run that depends on the values sent."""
  return algorithm.sent(server) if algorithm.sent else Traffic()


def run_rounds(
  run: RunContext, interval: Interval, server: PyTree
) -> tuple[PyTree, Metrics, list[np.ndarray]]:
  """Runs the rounds of an interval and updates the client states.

  The rates and thetas of the interval have the shape [..., rounds], and the metrics the shape [...]
  (see ``training.lanes``).

  Returns:
    (server state, training metrics on the host, client ids of each round).
  """
  compiled = run.program.intervals[interval.phase]
  lanes = interval.rates.shape[:-1]
  total = run.place(jax.tree.map(lambda a: jnp.broadcast_to(a, lanes), Metrics.zeros()))
  first, cohorts = interval.first, []
  while first < interval.end:
    window = run.feed.window(first)
    begin, end = first - window.first, min(interval.end, window.end) - window.first
    padded = np.zeros((2, *lanes, len(window.slots)), np.float32)
    here = slice(first - interval.first, first - interval.first + end - begin)
    padded[..., begin:end] = interval.rates[..., here], interval.thetas[..., here]
    states = run.feed.client_states(run.store, window)
    arguments = run.place((*padded, np.int32(window.first), np.int32(begin), np.int32(end)))
    server, states, total = compiled(
      server, states, total, window.slots, *arguments, window.data, run.key
    )
    # Without waiting here, windows that are read ahead of the computation would fill the memory.
    jax.block_until_ready(total)
    cohorts += list(window.cohorts[begin:end])
    run.feed.store_states(run.store, window, states)
    run.store.seen[window.cohorts[begin:end]] = True
    first = window.first + end
  return server, jax.tree.map(np.asarray, total), cohorts


def spent(run: RunContext, algorithm: Algorithm, cohorts: list[np.ndarray], sent: Traffic) -> Spent:
  """Returns the traffic and the simulated time of rounds.

  Args:
    run: the run.
    algorithm: the algorithm of the rounds.
    cohorts: client ids of each round.
    sent: their traffic that depends on the values sent.
  """
  share = ClientTraffic.mean(sent, sum(map(len, cohorts)), len(cohorts))
  total = Spent(sent)
  for cohort in cohorts:
    steps = np.asarray(algorithm.local_steps(run.sizes[cohort]))
    seconds = 0.0
    if clock := run.program.clock:
      seconds = clock.round_seconds(algorithm.cost, cohort, steps, share, algorithm.pace)
    total += Spent(algorithm.cost.of_round(steps.tolist()), seconds)
  return total


def recalibrate(run: RunContext, phase: Phase, server: PyTree) -> tuple[PyTree, Spent]:
  """Applies ``phase.recalibrate`` to the global model; returns (server state, costs)."""
  if phase.recalibrate is None:
    return server, Spent()
  model = server.variables
  stats = phase.recalibrate(model, run.feed.all_clients(), run.key)
  server = server._replace(variables={**model, "batch_stats": stats})
  steps = phase.recalibrate_steps
  return server, full_participation_cost(run, phase.recalibrate_cost, run.sizes, steps)


def full_participation_cost(
  run: RunContext, cost: Cost, counted: np.ndarray, timed: np.ndarray
) -> Spent:
  """Returns the traffic and simulated time of one exchange with every client of the population.

  ``cost`` is the traffic of one client, ``counted`` [K] the number of steps of each client for the
  costs per step, and ``timed`` [K] the computation time of each client in training steps.
  """
  clock = run.program.clock
  seconds = clock.pass_seconds(cost, counted, timed) if clock else 0.0
  return Spent(cost.of_round(counted.tolist()), seconds)


def compile_interval(algorithm: Algorithm, mapping: ClientMapping) -> Callable[..., Any]:
  """Returns the compiled :func:`make_interval`, which donates the buffers of its states."""
  shardings = (mapping.sharding, mapping.row_sharding, mapping.sharding)
  interval = make_interval(algorithm, mapping)
  return jax.jit(interval, donate_argnums=(0, 1), out_shardings=shardings)


def make_interval(algorithm: Algorithm, mapping: ClientMapping) -> Callable[..., Any]:
  """Makes a function that runs rounds of a phase.

  Returns:
    (server, clients [U, ...], metrics so far, slots [R, m], rates [R], thetas [R], first, begin,
    end, data, key) -> (server, clients, metrics). The arrays and ``data`` are for R rounds, from
    round ``first`` of the run on; the function runs ``begin:end`` of these R. ``slots`` are the row
    numbers of each cohort's clients in ``clients`` and in ``data``. The buffers of ``server`` and
    ``clients`` are donated.
  """

  def interval(
    server: PyTree,
    clients: PyTree,
    metrics: Metrics,
    slots: Array,
    rates: Array,
    thetas: Array,
    first: Array,
    begin: Array,
    end: Array,
    data: FederatedData,
    key: Key,
  ) -> tuple[PyTree, PyTree, Metrics]:
    def run_round(
      index: Array, carry: tuple[PyTree, PyTree, Metrics]
    ) -> tuple[PyTree, PyTree, Metrics]:
      server, clients, total = carry
      cohort = mapping.take(clients, slots[index])
      context = RoundContext(data, first + index, rates[index], key, thetas[index])
      server, cohort, metrics = algorithm.round(server, cohort, slots[index], context)
      clients = mapping.put(clients, slots[index], cohort)
      return server, clients, optax.tree.add(total, metrics)

    return jax.lax.fori_loop(begin, end, run_round, (server, clients, metrics))

  return interval
