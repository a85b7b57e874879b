"""The ledger: what a real federation would send, in bytes and round trips."""

from typing import NamedTuple

from fedjax_norm import trees
from fedjax_norm.norm import NormSpec
from fedjax_norm.typing import Variables

_FLOAT_BYTES = 4


class Traffic(NamedTuple):
  """What has been sent.

  Attributes:
    bytes_up: from clients to the server, summed over clients.
    bytes_down: from the server to clients, summed over clients.
    round_trips: exchanges that follow one another; clients send at the same time, so a FedAvg round
      is one whatever the cohort.
  """

  bytes_up: int = 0
  bytes_down: int = 0
  round_trips: int = 0

  def __add__(self, other):
    """Adds field by field."""
    return Traffic(*(a + b for a, b in zip(self, other, strict=True)))


class Cost(NamedTuple):
  """What one client of one round sends and receives, in bytes, and how often it must wait.

  Attributes:
    up: bytes to the server a round.
    down: bytes from the server a round.
    step_up: further bytes a local step.
    step_down: further bytes a local step.
    step_trips: further round trips a local step.
  """

  up: int
  down: int
  step_up: int = 0
  step_down: int = 0
  step_trips: int = 0

  def of_round(self, steps: list[int]) -> Traffic:
    """The traffic of a round whose clients take these numbers of local steps."""
    return Traffic(
      bytes_up=sum(self.up + self.step_up * n for n in steps),
      bytes_down=sum(self.down + self.step_down * n for n in steps),
      round_trips=1 + self.step_trips * max(steps),
    )


def lockstep_cost(spec: NormSpec, norm_channels: list[int]) -> tuple[int, int, int]:
  """(bytes up, bytes down, round trips) a step of a norm that merges its moments across nodes.

  A layer of C channels sends its count, mean and m2 forward (2 C + 1 numbers) and, for the exact
  gradient, the sums of dy and dy * xhat backward (2 C); each comes back merged
  (``moments.merge_over_axes``).
  """
  if not spec.across_nodes or not spec.updates_running_statistics:
    return 0, 0, 0
  one_way = sum(_FLOAT_BYTES * (2 * c + 1 + 2 * c) for c in norm_channels)
  return one_way, one_way, 2 * len(norm_channels)


def paper_cost(cost: Cost, spec: NormSpec, norm_channels: list[int]) -> Cost:
  """A cost with distributed BN counted as paper 000 does (sec. 4.2): 2 n + 1 round trips a step.

  The mean goes up and comes back, then the variance, C numbers each; the exchange that the exact
  gradient needs is left out.
  """
  if not spec.across_nodes or not spec.updates_running_statistics:
    return cost
  one_way = sum(_FLOAT_BYTES * 2 * c for c in norm_channels)
  return cost._replace(step_up=one_way, step_down=one_way, step_trips=2 * len(norm_channels))


def model_bytes(variables: Variables, without: frozenset[str] = frozenset()) -> int:
  """The bytes of a model's parameters, without those at some paths."""
  flat = trees.flatten(variables["params"])
  return trees.num_bytes({path: leaf for path, leaf in flat.items() if path not in without})
