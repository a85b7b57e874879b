"""The freeze of FixBN: the round T* at which its statistics are frozen (paper 002)."""

from typing import NamedTuple

import numpy as np

from fedjax_norm import tree_leaves
from fedjax_norm.typing import PyTree

EXPLORE, CALIBRATE = "explore", "calibrate"


class FreezeState(NamedTuple):
  """State of the decision, host arrays.

  Attributes:
    frozen_at: round of the freeze, or -1 before it.
    looked_at: round of the last measurement of the statistics, or -1 before the first.
    calm: number of consecutive measurements in which the movement was below the tolerance.
    movement: movement at the last measurement, in standard deviations; infinite before the second.
    last: statistics at the last measurement.
  """

  frozen_at: np.int32
  looked_at: np.int32
  calm: np.int32
  movement: np.float32
  last: PyTree


class Freeze(NamedTuple):
  """The policy: freezes at a fixed round, or when the global statistics have stopped moving.

  The movement between two measurements is, over all channels c of all norms, the root mean square
  of (mean_c - mean'_c) / std_c and of log(std_c / std'_c) together. The statistics are measured at
  evaluations at least ``window`` rounds apart: they are moving averages, which cannot move far
  within fewer rounds whatever the network does. With ``round`` None the freeze comes when the
  movement has been below ``tolerance`` in ``patience`` consecutive measurements, and at the latest
  at ``latest``.

  Attributes:
    round: T*, or None to decide from the statistics.
    latest: last round at which to freeze if ``round`` is None.
    tolerance: movement below which the statistics have stopped moving.
    patience: number of consecutive measurements.
    window: least number of rounds between two measurements.
  """

  round: int | None
  latest: int = 0
  tolerance: float = 0.1
  patience: int = 2
  window: int = 1

  def init(self, batch_stats: PyTree) -> FreezeState:
    """Returns the state before the first round."""
    if self.round is not None:
      batch_stats = {}
    last = _host_leaves(batch_stats)
    return FreezeState(np.int32(-1), np.int32(-1), np.int32(0), np.float32(np.inf), last)

  def phase(self, state: FreezeState, round: int) -> str:
    """Returns the phase of the interval that starts at a round."""
    return CALIBRATE if self._due(state, round) else EXPLORE

  def next_change(self, state: FreezeState, round: int) -> int | None:
    """Returns the round at which the phase changes at the latest, where an interval must end."""
    if state.frozen_at >= 0 or self._due(state, round):
      return None
    return self.latest if self.round is None else self.round

  def observe(self, state: FreezeState, batch_stats: PyTree, round: int) -> FreezeState:
    """Returns the state after an interval that ended before ``round``."""
    if state.frozen_at >= 0:
      return state
    if self.round is None and round - max(int(state.looked_at), 0) >= self.window:
      stats = _host_leaves(batch_stats)
      first = state.looked_at < 0
      moved = np.float32(np.inf if first else movement(state.last, stats))
      calm = np.int32(state.calm + 1 if moved < self.tolerance else 0)
      state = FreezeState(state.frozen_at, np.int32(round), calm, moved, stats)
    if self._due(state, round):
      return state._replace(frozen_at=np.int32(round))
    return state

  def _due(self, state: FreezeState, round: int) -> bool:
    if state.frozen_at >= 0:
      return True
    if self.round is not None:
      return round >= self.round
    return bool(state.calm >= self.patience) or round >= self.latest


def _host_leaves(batch_stats: PyTree) -> dict[str, np.ndarray]:
  return {path: np.asarray(leaf) for path, leaf in tree_leaves.flatten(batch_stats).items()}


def movement(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
  """Returns the movement of flat statistics, in standard deviations (see :class:`Freeze`)."""
  squares = []
  for path, mean in after.items():
    if not path.endswith("mean"):
      continue
    var_path = path.removesuffix("mean") + "var"
    std, old_std = (np.sqrt(stats[var_path] + 1e-5) for stats in (after, before))
    squares += [((mean - before[path]) / std) ** 2, np.log(std / old_std) ** 2]
  return float(np.sqrt(np.mean(np.concatenate(squares))))
