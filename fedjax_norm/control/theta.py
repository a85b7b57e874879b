"""The communication threshold of each round: scheduled, scaled with the rate, or from SkewScout."""

from typing import NamedTuple

import numpy as np

from fedjax_norm.control.skewscout import ScoutState, SkewScout


class ThetaSchedule(NamedTuple):
  """The communication threshold theta of each round (``RoundContext.theta``).

  Attributes:
    values: [rounds] float32, the schedule; SkewScout's choice replaces it.
    follows_rate: whether theta falls as the learning rate does from its maximum (Gaia's threshold,
      paper 004 Alg. 1 line 16): T_t = T_0 eta_t / (maximum of eta so far).
    scout: controller that chooses theta during the run; None without SkewScout.
  """

  values: np.ndarray
  follows_rate: bool = False
  scout: SkewScout | None = None

  def thetas(
    self, first: int, rates: np.ndarray, peaks: np.ndarray, state: ScoutState | None
  ) -> np.ndarray:
    """Returns the thetas of consecutive rounds: [n] float32.

    Args:
      first: first round.
      rates: [n] learning rates of the rounds.
      peaks: [n] maximum of the scheduled rate up to each round.
      state: state of SkewScout, or None.
    """
    values = self.values[first : first + len(rates)]
    if self.scout and self.scout.searches and state:
      values = np.full(len(rates), self.scout.theta(state), np.float32)
    return values * (rates / peaks) if self.follows_rate else values
