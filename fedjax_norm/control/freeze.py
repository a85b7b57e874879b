"""When FixBN freezes its statistics (paper 002: the round T*)."""

from typing import NamedTuple

import numpy as np

from fedjax_norm import tree_leaves
from fedjax_norm.typing import PyTree

EXPLORE, CALIBRATE = "explore", "calibrate"


class FreezeState(NamedTuple):
  """What the decision remembers; host arrays, so that a checkpoint holds it.

  Attributes:
    frozen_at: the round of the freeze, or -1 before it.
    looked_at: the round of the last look at the statistics, or -1 before the first.
    calm: how many looks in a row found them at rest.
    movement: how far they moved last, in standard deviations; infinite before two looks.
    last: the statistics of the last look.
  """

  frozen_at: np.int32
  looked_at: np.int32
  calm: np.int32
  movement: np.float32
  last: PyTree


class Freeze(NamedTuple):
  """The policy: at a fixed round, or when the global statistics have stopped moving.

  Movement between two looks is, over all channels c of all norms, the root mean square of
  (mean_c - mean'_c) / std_c and of log(std_c / std'_c) together. A look is an evaluation at least
  ``window`` rounds after the last: the statistics are moving averages, which between closer looks
  cannot move far whatever the network does. With ``round`` None the freeze comes at the look that
  finds the movement below ``tolerance`` for the ``patience``-th time in a row, and at the latest at
  ``latest``.

  Attributes:
    round: T*, or None to decide from the statistics.
    latest: the last round at which to freeze when ``round`` is None.
    tolerance: the movement below which the statistics are at rest.
    patience: looks in a row.
    window: the least number of rounds between two looks.
  """

  round: int | None
  latest: int = 0
  tolerance: float = 0.1
  patience: int = 2
  window: int = 1

  def init(self, batch_stats: PyTree) -> FreezeState:
    """The state before the first round."""
    if self.round is not None:
      batch_stats = {}
    last = {path: np.asarray(leaf) for path, leaf in tree_leaves.flatten(batch_stats).items()}
    return FreezeState(np.int32(-1), np.int32(-1), np.int32(0), np.float32(np.inf), last)

  def phase(self, state: FreezeState, round: int) -> str:
    """The phase of the interval that starts at a round."""
    return CALIBRATE if self._due(state, round) else EXPLORE

  def next_change(self, state: FreezeState, round: int) -> int | None:
    """The round at which the phase will change for certain, so that an interval ends there."""
    if state.frozen_at >= 0 or self._due(state, round):
      return None
    return self.latest if self.round is None else self.round

  def observe(self, state: FreezeState, batch_stats: PyTree, round: int) -> FreezeState:
    """The state after an interval that ended before ``round``."""
    if state.frozen_at >= 0:
      return state
    if self.round is None and round - max(int(state.looked_at), 0) >= self.window:
      stats = {path: np.asarray(leaf) for path, leaf in tree_leaves.flatten(batch_stats).items()}
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


def movement(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
  """How far running statistics moved, in standard deviations (see :class:`Freeze`).

  Args:
    before: flat running statistics, paths ending in ``mean`` and ``var``.
    after: the same paths later.
  """
  squares = []
  for path, mean in after.items():
    if not path.endswith("mean"):
      continue
    var_path = path.removesuffix("mean") + "var"
    std, old_std = (np.sqrt(stats[var_path] + 1e-5) for stats in (after, before))
    squares += [((mean - before[path]) / std) ** 2, np.log(std / old_std) ** 2]
  return float(np.sqrt(np.mean(np.concatenate(squares))))
