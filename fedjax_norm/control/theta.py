"""The communication threshold theta of each round, from a schedule or from SkewScout."""

from typing import NamedTuple

import numpy as np

from fedjax_norm.control.skewscout import ScoutState, SkewScout


class ThetaSchedule(NamedTuple):
  """The communication threshold theta of each round (``RoundContext.theta``).

  Attributes:
    values: [rounds] float32, the scheduled theta, which a choice of SkewScout replaces.
    follows_rate: whether theta falls in proportion to the learning rate eta (Gaia's threshold T in
      paper 004, Alg. 1, line 16): T_t = T_0 eta_t / (maximum of eta so far).
    scout: SkewScout's controller; None without SkewScout.
  """

  values: np.ndarray
  follows_rate: bool = False
  scout: SkewScout | None = None

  def thetas(
    self, first: int, rates: np.ndarray, peaks: np.ndarray, state: ScoutState | None
  ) -> np.ndarray:
    """Returns theta in each of n consecutive rounds: [n] float32.

    Args:
      first: first of these rounds.
      rates: [n] learning rates of these rounds.
      peaks: [n] maximum of the scheduled learning rate up to each of these rounds.
      state: state of SkewScout; None without SkewScout.
    """
    values = self.values[first : first + len(rates)]
    if self.scout and self.scout.searches and state:
      values = np.full(len(rates), self.scout.theta(state), np.float32)
    return values * (rates / peaks) if self.follows_rate else values
