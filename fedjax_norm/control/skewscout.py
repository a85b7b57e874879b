"""SkewScout (paper 004, sec. 7): chooses theta by the accuracy that models lose on other data."""

import dataclasses
from typing import NamedTuple

import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.typing import Array

SEARCHES = ("hill", "stochastic", "annealing")
_SEARCHING = ",".join(SEARCHES)
_COOLING = 0.9  # factor of the temperature of annealing at each measurement


@dataclasses.dataclass(frozen=True)
class ScoutConfig(Options):
  """Options of SkewScout (see :class:`SkewScout`)."""

  group = "SkewScout"

  skewscout: str = option(
    "off",
    "SkewScout: models travel to other clients and are tested there, and a search chooses theta by "
    "the accuracy that they lose: hill climbing, stochastic hill climbing or simulated annealing; "
    "measure tests the models without changing theta.",
    choices=("off", "measure", *SEARCHES),
  )
  scout_every: int = option(
    500, "Mini-batches between two measurements.", least=1, needs=f"skewscout=measure,{_SEARCHING}"
  )
  scout_examples: int = option(
    256,
    "Number of a client's training examples that a model is tested on.",
    least=1,
    needs=f"skewscout=measure,{_SEARCHING}",
  )
  scout_grid: tuple[float, ...] = option(
    (),
    "Thetas to choose from, in ascending order; by default those of paper 004, tables 6 to 8.",
    needs=f"skewscout={_SEARCHING}",
  )
  scout_start: float | None = option(
    None, "Initial theta; by default the first of the grid.", needs=f"skewscout={_SEARCHING}"
  )
  scout_lambda_al: float = option(
    50.0, "Weight lambda_AL of the accuracy loss.", least=0, needs=f"skewscout={_SEARCHING}"
  )
  scout_lambda_c: float = option(
    1.0, "Weight lambda_C of the communication.", least=0, needs=f"skewscout={_SEARCHING}"
  )
  scout_sigma_al: float = option(
    0.05, "Accuracy loss sigma_AL that is tolerated.", least=0, needs=f"skewscout={_SEARCHING}"
  )
  scout_temperature: float = option(
    0.5,
    "Temperature of annealing at the first measurement; each further one multiplies it by 0.9.",
    above=0,
    needs="skewscout=annealing",
  )

  def check(self) -> None:
    """Raises UserError if the grid is not in ascending order."""
    if list(self.scout_grid) != sorted(set(self.scout_grid)):
      raise UserError(f"--scout_grid is {self.scout_grid}; give different thetas in rising order.")


class ScoutState(NamedTuple):
  """State of SkewScout, host arrays.

  Attributes:
    index: int64, index of the current theta in the grid.
    losses: [G] float64, last measured AL of each theta; NaN for thetas that were never used.
    costs: [G] float64, last measured C / CM of each theta; NaN likewise.
    looks: int64, number of measurements.
    next_look: int64, round before which the next measurement takes place.
    sent: int64, bytes sent in both directions since the last measurement.
    since: int64, round of the last measurement.
  """

  index: Array
  losses: Array
  costs: Array
  looks: Array
  next_look: Array
  sent: Array
  since: Array


class SkewScout(NamedTuple):
  """The controller: after each measurement it chooses the theta of eq. 1,

    argmin over theta of  lambda_AL max(0, AL(theta) - sigma_AL) + lambda_C C(theta) / CM.

  AL is a share between 0 and 1. C is the traffic of the algorithm per mini-batch, and CM that of
  sending and receiving the whole model, so that C / CM of BSP is 1.

  A used theta has its last measured AL and C. For other thetas, which the paper does not discuss,
  the estimate is optimistic. AL is the greatest one of the used thetas with more communication (0
  without any), because less communication does not lose less accuracy. C is that of the nearest
  used theta, scaled in proportion to 1 / T_0, 1 / Iter_Local or 1 - s, and at most 1.

  The searches consider only the neighbours of the current theta. ``hill`` chooses the best of the
  three. ``stochastic`` chooses a better neighbour at random, in proportion to the improvement.
  ``annealing`` picks a neighbour at random and chooses it if it is better, or else with the
  probability exp(-loss / temperature), where the temperature falls with each measurement.

  Attributes:
    grid: thetas in ascending order, from most to least communication.
    start: index of the initial theta in the grid.
    config: options; with ``measure`` theta does not change.
    is_sparsity: whether C is in proportion to 1 - theta (DGC), or else to 1 / theta.
    is_integer: whether theta is a number of local steps, whose last one a measurement waits for.
  """

  grid: tuple[float, ...]
  start: int = 0
  config: ScoutConfig = ScoutConfig(skewscout="hill")
  is_sparsity: bool = False
  is_integer: bool = False

  @property
  def searches(self) -> bool:
    """Whether it chooses theta and does not only measure."""
    return self.config.skewscout in SEARCHES

  def init(self) -> ScoutState:
    """Returns the state before the first round."""
    unknown, zero = np.full(len(self.grid), np.nan), np.int64(0)
    first = self._next_look(0, self.start)
    return ScoutState(np.int64(self.start), unknown, unknown, zero, first, zero, zero)

  def theta(self, state: ScoutState) -> float:
    """Returns the current theta."""
    return self.grid[int(state.index)]

  def observe(
    self, state: ScoutState, loss: float, cost: float, round: int, seed: int = 0
  ) -> ScoutState:
    """Returns the state after a measurement before ``round``, given AL and C / CM."""
    index, losses, costs = int(state.index), state.losses.copy(), state.costs.copy()
    losses[index], costs[index] = loss, cost
    state = state._replace(losses=losses, costs=costs)
    if self.searches:
      index = self._choose(index, self.objective(state), int(state.looks), seed)
    return state._replace(
      index=np.int64(index),
      looks=state.looks + 1,
      next_look=self._next_look(round, index),
      sent=np.int64(0),
      since=np.int64(round),
    )

  def objective(self, state: ScoutState) -> np.ndarray:
    """Returns the objective of eq. 1 of every theta, with estimates for unused ones: [G]."""
    losses, costs = self._estimates(state)
    excess = np.maximum(0, losses - self.config.scout_sigma_al)
    return self.config.scout_lambda_al * excess + self.config.scout_lambda_c * costs

  def _estimates(self, state: ScoutState) -> tuple[np.ndarray, np.ndarray]:
    """Returns (AL, C / CM) of every theta, measured or estimated."""
    grid = np.asarray(self.grid)
    proportion = 1 - grid if self.is_sparsity else 1 / np.maximum(grid, 1e-12)
    used = np.flatnonzero(np.isfinite(state.losses))
    losses, costs = state.losses.copy(), state.costs.copy()
    for i in np.flatnonzero(~np.isfinite(state.losses)):
      more_communication = state.losses[used[used < i]]
      losses[i] = more_communication.max() if more_communication.size else 0.0
      nearest = used[np.abs(used - i).argmin()]
      costs[i] = min(1.0, state.costs[nearest] * proportion[i] / proportion[nearest])
    return losses, costs

  def _choose(self, index: int, objective: np.ndarray, looks: int, seed: int) -> int:
    """Returns the index of the next theta."""
    neighbours = [i for i in (index - 1, index + 1) if 0 <= i < len(self.grid)]
    rng = np.random.default_rng([seed, looks])
    match self.config.skewscout:
      case "hill":
        return min([index, *neighbours], key=lambda i: objective[i])
      case "stochastic":
        better = [i for i in neighbours if objective[i] < objective[index]]
        gains = np.array([objective[index] - objective[i] for i in better])
        return int(rng.choice(better, p=gains / gains.sum())) if better else index
      case _:
        if not neighbours:
          return index
        other = int(rng.choice(neighbours))
        worse = max(0.0, objective[other] - objective[index])
        temperature = self.config.scout_temperature * _COOLING**looks
        return other if rng.random() < np.exp(-worse / temperature) else index

  def _next_look(self, round: int, index: int) -> np.int64:
    """Returns the round of the next measurement, after a whole number of local-step periods."""
    period = int(self.grid[index]) if self.is_integer else 1
    return np.int64(round + -(-self.config.scout_every // period) * period)
