"""The rounds of an interval, window by window, and what they take."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_norm import trees
from fedjax_norm.algorithms.clock import Share
from fedjax_norm.algorithms.contract import Algorithm, RoundContext
from fedjax_norm.algorithms.ledger import Cost, Traffic
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.local import Metrics
from fedjax_norm.nodes import Nodes
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.interval_planner import Interval
from fedjax_norm.training.placement.client_placement import Placement
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.data_feed import Feed, Place, placer
from fedjax_norm.training.placement.distributed_feed import DistributedClientStore, DistributedFeed
from fedjax_norm.training.program_types import Phase, Program
from fedjax_norm.typing import Key, PyTree

# The most memory that the states of the clients of a window of rounds may take on the device.
_STATE_BUDGET = 2**30


class Spent(NamedTuple):
  """What has been sent, and how long it would have taken.

  Attributes:
    traffic: in bytes and round trips.
    simulated: seconds by the program's clock; 0 without one.
  """

  traffic: Traffic = Traffic()
  simulated: float = 0.0

  def __add__(self, other):
    """Adds field by field."""
    return Spent(self.traffic + other.traffic, self.simulated + other.simulated)


class RunContext(NamedTuple):
  """What rounds need beside the server's state.

  Attributes:
    program: what is run.
    store: the clients' states.
    sizes: [K], host.
    feed: the data as rounds need it.
    key: of the run, on the device.
    place: puts a tree where the program wants it.
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
    """A run that begins, or goes on, with a round; its feed is yet to be entered."""
    cohort, place = config.cohort_of(data.num_clients), placer(program.nodes)
    key = place(jax.random.key(config.seed))
    longest = min(config.eval_every, config.rounds)
    feed: Feed | DistributedFeed
    if program.nodes.apart:
      feed = DistributedFeed(
        data,
        program.nodes,
        key,
        rounds=config.rounds,
        cohort=cohort,
        longest=longest,
        client_bytes=store.client_bytes,
      )
    else:
      feed = Feed(
        data,
        program.nodes,
        key,
        on_host=program.data_on == "host",
        rounds=config.rounds,
        start=start,
        cohort=cohort,
        longest=_most_rounds(longest, cohort, data.num_clients, store.client_bytes),
      )
    return cls(program, store, np.asarray(data.sizes), feed, key, place)


def _most_rounds(longest: int, cohort: int, num_clients: int, client_bytes: int) -> int:
  """The rounds of a window at the most, by the memory of the states of the clients they touch."""
  if num_clients * client_bytes <= _STATE_BUDGET:
    return longest
  return max(1, min(longest, _STATE_BUDGET // (cohort * client_bytes)))


def make_client_store(nodes: Nodes, one: PyTree, num_clients: int) -> ClientStore:
  """The states of so many clients, each of which starts with the same, where the mapping has them.

  Args:
    nodes: the mapping.
    one: one client's state.
    num_clients: K.
  """
  if nodes.apart:
    return DistributedClientStore(
      one, nodes, Placement(num_clients, nodes.num_devices), num_clients
    )
  return ClientStore(one, num_clients)


def run_interval(
  run: RunContext, interval: Interval, server: PyTree
) -> tuple[PyTree, Metrics, Spent]:
  """Runs an interval's rounds, window by window.

  Where traffic depends on what was learnt, the clock takes each of the rounds for their mean.

  Returns:
    (the server's state, metrics on the host, what the rounds took).
  """
  algorithm = run.program.phases[interval.phase].algorithm
  before = algorithm.sent(server) if algorithm.sent else Traffic()
  first, total, ran = interval.first, run.place(Metrics.zeros()), []
  while first < interval.end:
    window = run.feed.window(first)
    begin, end = first - window.first, min(interval.end, window.end) - window.first
    padded = np.zeros((2, len(window.slots)), np.float32)
    here = slice(first - interval.first, first - interval.first + end - begin)
    padded[:, begin:end] = interval.rates[here], interval.thetas[here]
    server, states, total = run.program.intervals[interval.phase](
      server,
      run.feed.states(run.store, window),
      total,
      window.slots,
      *run.place(tuple(padded)),
      run.place(np.int32(window.first)),
      run.place(np.int32(begin)),
      run.place(np.int32(end)),
      window.data,
      run.key,
    )
    # Or the windows that are read ahead of the work would wait in memory.
    jax.block_until_ready(total)
    ran += list(window.cohorts[begin:end])
    run.feed.keep(run.store, window, states)
    run.store.seen[window.cohorts[begin:end]] = True
    first = window.first + end
  sent = algorithm.sent(server).minus(before) if algorithm.sent else Traffic()
  share = Share.of(sent, sum(map(len, ran)), len(ran))
  spent = Spent()
  for chosen in ran:
    steps = np.asarray(algorithm.local_steps(run.sizes[chosen]))
    seconds = 0.0
    if clock := run.program.clock:
      seconds = clock.round_seconds(algorithm.cost, chosen, steps, share, algorithm.pace)
    spent += Spent(algorithm.cost.of_round(steps.tolist()), seconds)
  return server, jax.tree.map(np.asarray, total), spent + Spent(sent)


def recalibrate(run: RunContext, phase: Phase, server: PyTree) -> tuple[PyTree, Spent]:
  """The server's state with statistics recomputed, where the phase does so, and what that took."""
  if phase.recalibrate is None:
    return server, Spent()
  model = server.variables
  stats = phase.recalibrate(model, run.feed.everyone(), run.key)
  server = server._replace(variables={**model, "batch_stats": stats})
  return server, full_participation_cost(
    run, phase.recalibrate_cost, run.sizes, phase.recalibrate_steps
  )


def full_participation_cost(
  run: RunContext, cost: Cost, counted: np.ndarray, timed: np.ndarray
) -> Spent:
  """What it takes when every client takes part once.

  Args:
    run: whose clients and clock.
    cost: of a client.
    counted: [K] steps of each that the cost counts.
    timed: [K] the time that it takes each, in training steps.
  """
  clock = run.program.clock
  seconds = clock.pass_seconds(cost, counted, timed) if clock else 0.0
  return Spent(cost.of_round(counted.tolist()), seconds)


def compile_interval(algorithm: Algorithm, nodes: Nodes) -> Callable[..., Any]:
  """One program for any rounds of a window in a phase.

  Returns:
    (server, clients [U, ...], metrics so far, slots [R, m], rates [R], thetas [R], first, begin,
    end, data, key) -> (server, clients, metrics). Of the R rounds, the first of which is the run's
    round ``first``, those from ``begin`` to before ``end`` are run. ``slots`` says where in
    ``clients``, and in the rows of ``data``, each of a cohort is. The states are donated.
  """

  def interval(server, clients, metrics, slots, rates, thetas, first, begin, end, data, key):
    def body(index, carry):
      server, clients, total = carry
      chosen = nodes.take(clients, slots[index])
      context = RoundContext(data, first + index, rates[index], key, thetas[index])
      server, chosen, metrics = algorithm.round(server, chosen, slots[index], context)
      clients = nodes.put(clients, slots[index], chosen)
      return server, clients, trees.add(total, metrics)

    return jax.lax.fori_loop(begin, end, body, (server, clients, metrics))

  shardings = (nodes.sharding, nodes.held_sharding, nodes.sharding)
  return jax.jit(interval, donate_argnums=(0, 1), out_shardings=shardings)
