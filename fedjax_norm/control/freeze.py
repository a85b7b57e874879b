"""Decides at which round T* FixBN freezes the running statistics (paper 002)."""

from typing import NamedTuple

import numpy as np

from fedjax_norm import tree_leaves
from fedjax_norm.typing import PyTree

EXPLORE, CALIBRATE = "explore", "calibrate"
"""The phases before and after the freeze."""


class FreezeState(NamedTuple):
  """The state of :class:`Freeze`, as arrays in host memory.

  Attributes:
    frozen_at: round of the freeze, or -1 before it.
    looked_at: round of the last measurement of the statistics, or -1 before the first.
    calm: number of latest consecutive measurements with a movement below ``Freeze.tolerance``.
    movement: change of the statistics between the last two measurements, in standard deviations;
      infinite before the second measurement.
    last: statistics at the last measurement, by path.
  """

  frozen_at: np.int32
  looked_at: np.int32
  calm: np.int32
  movement: np.float32
  last: PyTree


class Freeze(NamedTuple):
  """Freezes at a given round, or when the global running statistics have almost stopped changing.

  The movement between two measurements (mean', std' and then mean, std) is the root mean square of
  (mean_c - mean'_c) / std_c and log(std_c / std'_c) over all channels c of all norms. Evaluations
  measure the statistics, at least ``window`` rounds apart, because moving averages always change
  little within fewer rounds. If ``round`` is None, statistics freeze when the movement was below
  ``tolerance`` in ``patience`` consecutive measurements, but not later than round ``latest``.

  Attributes:
    round: T*, or None to decide from the statistics.
    latest: last round at which to freeze if ``round`` is None.
    tolerance: movement, in standard deviations, below which a measurement counts as no change.
    patience: number of consecutive measurements without change after which statistics freeze.
    window: least number of rounds between two measurements.
  """

  round: int | None
  latest: int = 0
  tolerance: float = 0.1
  patience: int = 2
  window: int = 1

  def init(self, batch_stats: PyTree) -> FreezeState:
    """Returns the state before the first round, given the model's initial running statistics."""
    last = _host_leaves(batch_stats if self.round is None else {})
    return FreezeState(np.int32(-1), np.int32(-1), np.int32(0), np.float32(np.inf), last)

  def phase(self, state: FreezeState, round: int) -> str:
    """Returns ``EXPLORE`` or ``CALIBRATE`` for the rounds until the next evaluation."""
    return CALIBRATE if self._due(state, round) else EXPLORE

  def next_change(self, state: FreezeState, round: int) -> int | None:
    """Returns the latest round of the freeze, before which the loop must stop; None if frozen."""
    if state.frozen_at >= 0 or self._due(state, round):
      return None
    return self.latest if self.round is None else self.round

  def observe(self, state: FreezeState, batch_stats: PyTree, round: int) -> FreezeState:
    """Returns the state after an evaluation before ``round``, given the global statistics."""
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
  """Returns the movement between two measurements, each by path, as :class:`Freeze` defines it."""
  squares = []
  for path, mean in after.items():
    if not path.endswith("mean"):
      continue
    var_path = path.removesuffix("mean") + "var"
    std, old_std = (np.sqrt(stats[var_path] + 1e-5) for stats in (after, before))
    squares += [((mean - before[path]) / std) ** 2, np.log(std / old_std) ** 2]
  return float(np.sqrt(np.mean(np.concatenate(squares))))
