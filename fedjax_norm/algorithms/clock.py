"""A simulated clock: how long rounds would take on real nodes behind a real network.

Times are in seconds, bandwidths in bytes a second. A message of b bytes takes the latency one way
and b / bandwidth; nodes send at the same time, and the server's own link and work cost nothing.
"""

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from fedjax_norm import number_parsing
from fedjax_norm.algorithms.ledger import Cost, Traffic
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option

COLUMNS = (
  "node",
  "step_seconds",
  "latency_seconds",
  "up_bytes_per_second",
  "down_bytes_per_second",
)
"""The header of a user's file; ``node`` counts from 0 and latency is one way."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Options):
  """The simulated network."""

  group = "network"

  network: str | None = option(
    None,
    "Tells how long the run would take on a simulated network: lan, wan, mobile, or the path of a "
    "CSV file that describes its nodes.",
  )


class Profile(NamedTuple):
  """What is known of a kind of nodes and of their network.

  Attributes:
    flops: the typical node's floating-point operations a second, while it trains.
    flops_spread: the fastest node's over the slowest's.
    latency: seconds one way.
    up: the typical node's bytes a second to the server.
    down: the typical node's bytes a second from the server.
    link_spread: the best link's bytes a second over the worst's.
  """

  flops: float
  flops_spread: float
  latency: float
  up: float
  down: float
  link_spread: float


PROFILES: Mapping[str, Profile] = MappingProxyType(
  {
    # Machines of one data centre.
    "lan": Profile(
      # A third of the float32 peak of an NVIDIA T4 (8.1e12, its data sheet); what part of the peak
      # training reaches depends on the model, so this is an order of magnitude.
      flops=2.7e12,
      # Assumed: machines of one kind, under somewhat different loads.
      flops_spread=1.25,
      # Half of the 0.5 ms of a round trip within a data centre (J. Dean, "Numbers everyone should
      # know", 2009).
      latency=0.25e-3,
      # The line rate of 10 Gbit Ethernet (IEEE 802.3ae), both ways.
      up=1.25e9,
      down=1.25e9,
      # The ports of a switch are alike.
      link_spread=1.0,
    ),
    # Data centres across the world.
    "wan": Profile(
      # As in the LAN.
      flops=2.7e12,
      # Assumed: what two generations of one class of accelerator differ by.
      flops_spread=2.0,
      # Half of the 150 ms of a round trip California - Netherlands (Dean, as above).
      latency=75e-3,
      # Between 11 EC2 regions Gaia (Hsieh et al., NSDI 2017, sec. 2) measured a fifteenth of the
      # bandwidth within a region on average, which is here taken as 1 Gbit/s.
      up=1e9 / 8 / 15,
      down=1e9 / 8 / 15,
      # Near regions had up to 12 times the bandwidth of distant ones (the same).
      link_spread=12.0,
    ),
    # Phones.
    "mobile": Profile(
      # Smartphones' CPUs have peaks of tens of GFLOP/s (Wu et al., "Machine learning at Facebook:
      # understanding inference at the edge", HPCA 2019, fig. 1); of which training reaches a part,
      # so this is an order of magnitude.
      flops=1e10,
      # "Peak performance can vary by over an order of magnitude" (the same figure).
      flops_spread=10.0,
      # Half of a mean ping of 40 ms (Speedtest Global Index, mobile, September 2020).
      latency=20e-3,
      # 11.22 and 35.96 Mbit/s, the means of the same index.
      up=11.22e6 / 8,
      down=35.96e6 / 8,
      # Assumed: an order of magnitude, as between their CPUs.
      link_spread=10.0,
    ),
  }
)
"""The built-in profiles; every number stands beside its source."""

# The additive recurrence of two dimensions with the least discrepancy known (Roberts 2018): powers
# of the inverse of the real root of x^3 = x + 1.
_ROOT = 1.32471795724474602596
_STEPS = (1 / _ROOT, 1 / _ROOT**2)


class Share(NamedTuple):
  """A client's part in a round's traffic, on average over rounds.

  Attributes:
    up: bytes to the server.
    down: bytes from it.
    trips: round trips.
  """

  up: float
  down: float
  trips: float

  @classmethod
  def of(cls, traffic: Traffic, clients: int, rounds: int) -> "Share":
    """Of the traffic of some rounds, in which so many clients took part in all."""
    up, down, trips = traffic
    return cls(up / clients, down / clients, trips / rounds)


NOTHING = Share(0.0, 0.0, 0.0)

Pace = Literal["together", "apart", "turns", "events"]
"""How the clients of a round wait for one another: at every exchange of a step, where steps have
any; at the end of the round alone; each for the end of the one before; or not at all, in algorithms
that simulate their own time."""


class Clock(NamedTuple):
  """The times of n nodes, host arrays.

  Attributes:
    step_seconds: [n] float64, of one local step.
    latency: [n] float64, seconds one way.
    up: [n] float64, bytes a second to the server.
    down: [n] float64, bytes a second from the server.
  """

  step_seconds: np.ndarray
  latency: np.ndarray
  up: np.ndarray
  down: np.ndarray

  def event_seconds(self, cost: Cost) -> np.ndarray:
    """What each node needs to pull the model, take one step and push: [n] float64."""
    return self._alone(cost, np.ones(len(self.latency)))

  def round_seconds(
    self,
    cost: Cost,
    clients: np.ndarray,
    steps: np.ndarray,
    share: Share = NOTHING,
    pace: Pace = "together",
  ) -> float:
    """How long a synchronous round lasts: until its slowest client has been heard.

    In lock-step (together, and ``cost.step_trips`` > 0) the exchanges of a step are spread evenly
    over it, each after its share of the step's work, and carry equal shares of the step's bytes. At
    every one of them the clients that still have steps to take wait for the slowest of them. In
    turns a round lasts as long as all of its clients one after another; what it has round trips for
    beside theirs (``cost.trips``) all do at once.

    Args:
      cost: what a client sends and receives.
      clients: [m] ids.
      steps: [m] local steps of each, at least 1.
      share: what else each sends and receives in the round; where clients do not go together, each
        in proportion to its steps, and in turns the round trips are of all clients.
      pace: how they wait for one another.
    """
    own = Clock(*(array[clients] for array in self))
    trips = share.trips / len(clients) if pace == "turns" else share.trips
    more = 2 * own.latency * trips + share.up / own.up + share.down / own.down
    if pace == "together" and cost.step_trips:
      return own._lock_step(cost, steps, more)
    if pace != "together":
      more = more * steps / np.mean(steps)
    if pace != "turns":
      return float((own._alone(cost, steps) + more).max())
    at_once = 2 * own.latency.max() * cost.trips
    return float(at_once + (own._alone(cost._replace(trips=0), steps) + more).sum())

  def _lock_step(self, cost: Cost, steps: np.ndarray, more: np.ndarray) -> float:
    """A round at whose exchanges all wait; each node has [n] seconds of something more to do."""
    there, back = 2 * self.latency + self.step_seconds / cost.step_trips, 2 * self.latency
    there = there + cost.step_up / cost.step_trips / self.up
    received = cost.step_down / cost.step_trips / self.down
    between = there + received  # from one merged exchange to this node's part in the next
    last = back + received + cost.up / self.up + more
    # The first exchange waits for the model in the place of an exchange's result.
    reached, ends = float((there + cost.down / self.down).max() - between.max()), []
    before = 0
    for count in np.unique(steps):
      still = steps >= count
      reached += float((count - before) * cost.step_trips * between[still].max())
      ends.append(reached + float(last[steps == count].max()))
      before = count
    return max(ends)

  def pass_seconds(self, cost: Cost, examples: np.ndarray, steps: np.ndarray) -> float:
    """How long all nodes need for a pass over their data at the same time.

    Args:
      cost: what a node sends and receives; a step of it is an example.
      examples: [n] of each.
      steps: [n] the time of its work, in local steps.
    """
    return float(self._alone(cost, examples, steps).max())

  def _alone(self, cost: Cost, steps: np.ndarray, work: np.ndarray | None = None) -> np.ndarray:
    """The model down, steps (or work of as many) that wait for nobody else, the result up: [n]."""
    step = 2 * self.latency * cost.step_trips + cost.step_up / self.up + cost.step_down / self.down
    work = steps if work is None else work
    ends = 2 * self.latency * cost.trips + cost.down / self.down + cost.up / self.up
    return ends + steps * step + work * self.step_seconds


def make(profile: str, num_nodes: int, step_flops: float | np.ndarray) -> Clock:
  """The clock of a profile's nodes.

  The nodes of a built-in profile differ by its spreads: node k's speed is the typical one times
  spread^(u - 1/2), where u is the k-th point of a low-discrepancy sequence in [0, 1) that begins
  at 1/2 (log-uniform; node 0 is typical). Links have a sequence of their own. So a node's speed
  depends neither on chance nor on how many nodes there are.

  Args:
    profile: a key of ``PROFILES``, or the path of a CSV file with the header ``COLUMNS`` and a row
      a node; a file may describe more nodes than are asked for.
    num_nodes: n.
    step_flops: the floating-point operations of a local step, or [n] of each node's; a file's
      nodes have their own seconds a step.

  Raises:
    UserError: neither a profile nor a file, or a file that is no such table or lacks nodes.
  """
  if profile not in PROFILES:
    return _read(Path(profile), num_nodes)
  known = PROFILES[profile]
  index = np.arange(num_nodes)
  speed, link = (
    spread ** ((0.5 + step * index) % 1 - 0.5)
    for spread, step in zip((known.flops_spread, known.link_spread), _STEPS, strict=True)
  )
  return Clock(
    step_flops / (known.flops * speed),
    np.full(num_nodes, known.latency),
    known.up * link,
    known.down * link,
  )


def _read(path: Path, num_nodes: int) -> Clock:
  if not path.is_file():
    raise UserError(
      f"there is no network profile and no file {str(path)!r}; give {', '.join(PROFILES)} or the "
      f"path of a CSV file with the header {','.join(COLUMNS)}."
    )
  try:
    with path.open(encoding="utf-8-sig", newline="") as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
      if missing:
        raise UserError(
          f"{path} has no column {', '.join(missing)}; its header must be {','.join(COLUMNS)}."
        )
      rows = [_numbers(f"{path}, line {reader.line_num}", row) for row in reader]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} cannot be read as a CSV file ({error}); give a text file.") from error
  table = {int(row[0]): row[1:] for row in rows}
  if len(table) < len(rows):
    raise UserError(f"{path} has two rows of one node; give every node one.")
  lacking = [node for node in range(num_nodes) if node not in table]
  if lacking:
    raise UserError(
      f"{path} describes {len(rows)} nodes and not node {lacking[0]}, and the run has {num_nodes}; "
      f"give a row for each of the nodes 0 to {num_nodes - 1}."
    )
  return Clock(*np.array([table[node] for node in range(num_nodes)]).T)


def _numbers(where: str, row: Mapping[str, str | None]) -> list[float]:
  """A row's numbers in the order of ``COLUMNS``."""
  numbers = []
  for name in COLUMNS:
    text = row[name]
    try:
      value = number_parsing.parse_float((text or "").strip())
    except ValueError:
      value = math.nan
    if name == "node":
      sound, wanted = value >= 0 and value.is_integer(), "a whole number from 0"
    elif name == "latency_seconds":
      sound, wanted = 0 <= value < math.inf, "a number of 0 or more"
    else:
      sound, wanted = 0 < value < math.inf, "a number above 0"
    if not sound:
      raise UserError(f"{where}: {name} is {text!r}; it must be {wanted}.")
    numbers.append(value)
  return numbers
