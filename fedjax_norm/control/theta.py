"""Which theta a run uses in each round: by a schedule, with the rate, or as SkewScout says."""

from typing import NamedTuple

import numpy as np

from fedjax_norm.control.skewscout import ScoutState, SkewScout


class Dial(NamedTuple):
  """What sets an algorithm's theta (``RoundContext.theta``).

  Attributes:
    values: [rounds] float32, the schedule; SkewScout's choice takes its place.
    follows_rate: whether theta falls as the learning rate does from its peak (Gaia's threshold,
      paper 004 Alg. 1 line 16): T_t = T_0 eta_t / (the greatest eta so far).
    scout: who chooses theta while it runs; None is nobody.
  """

  values: np.ndarray
  follows_rate: bool = False
  scout: SkewScout | None = None

  def of(
    self, first: int, rates: np.ndarray, peaks: np.ndarray, state: ScoutState | None
  ) -> np.ndarray:
    """The thetas of some rounds: [n] float32.

    Args:
      first: the first of them.
      rates: [n] their learning rates.
      peaks: [n] the greatest scheduled rate up to each.
      state: SkewScout's.
    """
    values = self.values[first : first + len(rates)]
    if self.scout and self.scout.searches and state:
      values = np.full(len(rates), self.scout.theta(state), np.float32)
    return values * (rates / peaks) if self.follows_rate else values
