"""A simulated clock: how long rounds would take on clients' machines (nodes) in a real network.

Times are in seconds, bandwidths in bytes per second. A message of b bytes takes the one-way latency
plus b / bandwidth. Nodes send in parallel; the server's link and computation take no time.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fedjax_norm.algorithms.costs.ledger import Cost, Traffic
from fedjax_norm.algorithms.costs.network_profiles import PROFILES, read_nodes

# The additive recurrence of two dimensions with the least discrepancy known (Roberts 2018): powers
# of the inverse of the real root of x^3 = x + 1.
_ROOT = 1.32471795724474602596
_STEPS = (1 / _ROOT, 1 / _ROOT**2)


class ClientTraffic(NamedTuple):
  """One client's traffic in a round, averaged over clients and rounds.

  Attributes:
    up: bytes to the server.
    down: bytes from the server.
    trips: round trips.
  """

  up: float
  down: float
  trips: float

  @classmethod
  def mean(cls, traffic: Traffic, clients: int, rounds: int) -> "ClientTraffic":
    """Averages the traffic of ``rounds`` rounds; ``clients`` is the sum of their cohort sizes."""
    up, down, trips = traffic
    return cls(up / clients, down / clients, trips / rounds)


NO_TRAFFIC = ClientTraffic(0.0, 0.0, 0.0)

Pace = Literal["lockstep", "independent", "sequential", "asynchronous"]
"""How the clients of a round wait for each other: ``lockstep`` at every exchange within a step, if
there are any, ``independent`` only at the end of the round, ``sequential`` each for the previous
client, ``asynchronous`` not at all (the algorithm simulates the time)."""


class Clock(NamedTuple):
  """The speeds of n nodes and of the nodes' links, arrays in host memory.

  Attributes:
    step_seconds: [n] float64, duration of one local step.
    latency: [n] float64, one-way latency in seconds.
    up: [n] float64, bytes per second to the server.
    down: [n] float64, bytes per second from the server.
  """

  step_seconds: np.ndarray
  latency: np.ndarray
  up: np.ndarray
  down: np.ndarray

  def event_seconds(self, cost: Cost) -> np.ndarray:
    """Returns each node's time to pull the model, take a step and push the result: [n] float64."""
    return self._independent_seconds(cost, np.ones(len(self.latency)))

  def round_seconds(
    self,
    cost: Cost,
    clients: np.ndarray,
    steps: np.ndarray,
    traffic: ClientTraffic = NO_TRAFFIC,
    pace: Pace = "lockstep",
  ) -> float:
    """Returns the duration of a synchronous round, which ends when its slowest client has answered.

    In lock-step (if ``cost.step_trips`` > 0) the exchanges are spread evenly over a step and carry
    equal parts of the step's bytes; at each exchange the clients that still have steps to take wait
    for the slowest client. A sequential round lasts as long as all of its clients together, except
    that the clients make the round trips of ``cost.trips`` in parallel.

    Args:
      cost: what a client sends and receives.
      clients: [m] client ids.
      steps: [m] local steps of each client, at least 1.
      traffic: further traffic of an average client. Outside lock-step each client's traffic is in
        proportion to its steps; in a sequential round ``traffic.trips`` counts all clients' trips.
      pace: how the clients wait for each other.
    """
    nodes = Clock(*(array[clients] for array in self))
    trips = traffic.trips / len(clients) if pace == "sequential" else traffic.trips
    more = 2 * nodes.latency * trips + traffic.up / nodes.up + traffic.down / nodes.down
    if pace == "lockstep" and cost.step_trips:
      return nodes._lockstep_seconds(cost, steps, more)
    if pace != "lockstep":
      more = more * steps / np.mean(steps)
    if pace != "sequential":
      return float((nodes._independent_seconds(cost, steps) + more).max())
    in_parallel = 2 * nodes.latency.max() * cost.trips
    separate = nodes._independent_seconds(cost._replace(trips=0), steps) + more
    return float(in_parallel + separate.sum())

  def _lockstep_seconds(self, cost: Cost, steps: np.ndarray, more: np.ndarray) -> float:
    """Returns the duration of a round in lock-step; ``more`` [n] is further time of each node."""
    there, back = 2 * self.latency + self.step_seconds / cost.step_trips, 2 * self.latency
    there = there + cost.step_up / cost.step_trips / self.up
    received = cost.step_down / cost.step_trips / self.down
    between = there + received  # from one merged exchange to this node's part in the next
    last = back + received + cost.up / self.up + more
    # Before the first exchange a node receives the model instead of an exchange's result.
    reached, ends = float((there + cost.down / self.down).max() - between.max()), []
    before = 0
    for count in np.unique(steps):
      training = steps >= count
      reached += float((count - before) * cost.step_trips * between[training].max())
      ends.append(reached + float(last[steps == count].max()))
      before = count
    return max(ends)

  def pass_seconds(self, cost: Cost, examples: np.ndarray, steps: np.ndarray) -> float:
    """Returns the time in which all nodes pass once over the clients' data, in parallel.

    Node i has ``examples[i]`` examples and computes for as long as ``steps[i]`` local steps take.
    The step costs of ``cost`` (``step_up`` etc.) are charged per example.
    """
    return float(self._independent_seconds(cost, examples, steps).max())

  def _independent_seconds(
    self, cost: Cost, steps: np.ndarray, computed: np.ndarray | None = None
  ) -> np.ndarray:
    """Returns each node's time to receive the model, take its steps and send the result: [n].

    ``steps`` count for messages, ``computed`` (by default the same) for the computation.
    """
    step = 2 * self.latency * cost.step_trips + cost.step_up / self.up + cost.step_down / self.down
    computed = steps if computed is None else computed
    ends = 2 * self.latency * cost.trips + cost.down / self.down + cost.up / self.up
    return ends + steps * step + computed * self.step_seconds


def make(profile: str, num_nodes: int, step_flops: float | np.ndarray) -> Clock:
  """Makes the clock of the n = ``num_nodes`` nodes of a network.

  The nodes of a built-in profile differ by the profile's spreads: the speed of node k is the
  typical speed times spread^(u - 1/2), where u is the k-th point of a low-discrepancy sequence in
  [0, 1) that begins at 1/2 (log-uniform; node 0 is typical). Links have a second sequence. So a
  node's speed depends neither on chance nor on the number of nodes.
  Raises UserError if ``profile`` is neither a built-in profile nor a valid file with all nodes.

  Args:
    profile: key of ``PROFILES``, or path of a CSV file with the header ``COLUMNS`` and a row for
      each node; rows of nodes from n on are ignored.
    num_nodes: number n of nodes.
    step_flops: floating-point operations of a local step, a number or [n]. Not used for a CSV file,
      which has the seconds of a step.
  """
  if profile not in PROFILES:
    return Clock(*read_nodes(Path(profile), num_nodes))
  known = PROFILES[profile]
  of_speed, of_link = ((0.5 + step * np.arange(num_nodes)) % 1 - 0.5 for step in _STEPS)
  step_seconds = step_flops / (known.flops * known.flops_spread**of_speed)
  link = known.link_spread**of_link
  return Clock(step_seconds, np.full(num_nodes, known.latency), known.up * link, known.down * link)
