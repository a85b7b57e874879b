"""SkewScout (paper 004, sec. 7): chooses theta, the threshold that limits communication."""

import dataclasses
from typing import NamedTuple

import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.typing import Array

SEARCHES = ("hill", "stochastic", "annealing")
_SEARCHING = f"skewscout={','.join(SEARCHES)}"  # the argument ``needs`` of an option
_MEASURING = f"{_SEARCHING},measure"
_COOLING = 0.9  # factor of the temperature of annealing at each measurement


@dataclasses.dataclass(frozen=True)
class ScoutConfig(Options):
  """The options of :class:`SkewScout`."""

  group = "SkewScout"

  skewscout: str = option(
    "off",
    "SkewScout (paper 004, sec. 7): tests each client's model on another client's data and chooses "
    "the communication threshold theta by the loss of accuracy. The search is hill climbing, "
    "stochastic hill climbing or simulated annealing; measure tests without changing theta.",
    choices=("off", "measure", *SEARCHES),
  )
  scout_every: int = option(
    500, "Number of mini-batches between two tests of the models.", least=1, needs=_MEASURING
  )
  scout_examples: int = option(
    256, "Number of a client's training examples in a test of a model.", least=1, needs=_MEASURING
  )
  scout_grid: tuple[float, ...] = option(
    (),
    "Values of theta to choose from, in ascending order; by default from paper 004, tables 6 to 8.",
    needs=_SEARCHING,
  )
  scout_start: float | None = option(
    None, "Initial theta; by default the first one in --scout_grid.", needs=_SEARCHING
  )
  scout_lambda_al: float = option(
    50.0, "Weight lambda_AL of the loss of accuracy (paper 004, eq. 1).", least=0, needs=_SEARCHING
  )
  scout_lambda_c: float = option(
    1.0, "Weight lambda_C of the bytes sent (paper 004, eq. 1).", least=0, needs=_SEARCHING
  )
  scout_sigma_al: float = option(
    0.05, "Tolerated loss of accuracy sigma_AL (paper 004, eq. 1).", least=0, needs=_SEARCHING
  )
  scout_memory: int = option(
    8,
    "Number of tests of the models after which a measurement of another theta no longer counts, so "
    "that SkewScout tries this theta again. 0: it counts forever, as in paper 004.",
    least=0,
    needs=_SEARCHING,
  )
  scout_temperature: float = option(
    0.5,
    "Temperature of simulated annealing at the first test; each further test multiplies it by 0.9.",
    above=0,
    needs="skewscout=annealing",
  )

  def check(self) -> None:
    """Raises UserError if ``scout_grid`` is not in ascending order."""
    if list(self.scout_grid) != sorted(set(self.scout_grid)):
      raise UserError(f"--scout_grid is {self.scout_grid}; give different thetas in rising order.")


class ScoutState(NamedTuple):
  """The state of :class:`SkewScout`, as arrays in host memory, for a grid of G thetas.

  Attributes:
    index: int64, index of the current theta in the grid.
    losses: [G] float64, last measured accuracy loss AL of each theta; NaN if it was never used.
    costs: [G] float64, last measured traffic C / CM of each theta; NaN if it was never used.
    ages: [G] int64, number of measurements since the last one of each theta; 0 if there is none.
    looks: int64, number of measurements so far.
    next_look: int64, round before which the next measurement takes place.
    sent: int64, bytes sent in both directions since the last measurement.
    since: int64, round of the last measurement.
  """

  index: Array
  losses: Array
  costs: Array
  ages: Array
  looks: Array
  next_look: Array
  sent: Array
  since: Array


class SkewScout(NamedTuple):
  """Chooses, after each measurement, the theta that minimizes eq. 1 of paper 004, sec. 7:

    lambda_AL max(0, AL(theta) - sigma_AL) + lambda_C C(theta) / CM.

  AL is the accuracy, between 0 and 1, that a client's model loses on another client's data. C is
  the algorithm's traffic in bytes per mini-batch, and CM that of sending and receiving the whole
  model in each step.

  For a theta that was used before, AL and C are the last measured values, as in the paper. There
  they count forever: one great loss early in training would then keep a theta from ever being
  tried again. Ours count during the ``scout_memory`` following measurements; then the theta is as
  one that was never used.

  For these thetas, which the paper does not discuss, AL and C are estimated optimistically. AL is
  the greatest one of the used thetas with more communication (0 without such thetas), because less
  communication does not lose less accuracy. C is that of the nearest used theta, scaled in
  proportion to 1 / theta (Gaia's threshold, FedAvg's local steps) or 1 - theta (DGC's sparsity),
  and C / CM is at most 1.

  The searches consider only the current theta and its two neighbours in the grid. ``hill`` chooses
  the best of the three. ``stochastic`` draws one of the better neighbours, in proportion to the
  improvement. ``annealing`` draws a neighbour and chooses it if it is better, or else with the
  probability exp(-deterioration / temperature), where the temperature falls with each measurement.

  Attributes:
    grid: thetas in ascending order, from most to least communication.
    start: index of the initial theta in the grid.
    config: options; with ``skewscout="measure"``, theta does not change.
    is_sparsity: whether C is in proportion to 1 - theta (DGC), or else to 1 / theta.
    is_integer: whether theta is a number of local steps; a measurement then waits for the last one.
  """

  grid: tuple[float, ...]
  start: int = 0
  config: ScoutConfig = ScoutConfig(skewscout="hill")
  is_sparsity: bool = False
  is_integer: bool = False

  @property
  def searches(self) -> bool:
    """Whether SkewScout also chooses theta, instead of only measuring the loss of accuracy."""
    return self.config.skewscout in SEARCHES

  def init(self) -> ScoutState:
    """Returns the state before the first round, in which no theta has been measured."""
    unknown, zero = np.full(len(self.grid), np.nan), np.int64(0)
    ages, first = np.zeros(len(self.grid), np.int64), self._next_look(0, self.start)
    return ScoutState(np.int64(self.start), unknown, unknown, ages, zero, first, zero, zero)

  def theta(self, state: ScoutState) -> float:
    """Returns the theta that is in use until the next measurement."""
    return self.grid[int(state.index)]

  def observe(
    self, state: ScoutState, loss: float, cost: float, round: int, seed: int = 0
  ) -> ScoutState:
    """Returns the state after a measurement before ``round``.

    Args:
      state: state before the measurement.
      loss: measured accuracy loss AL of the current theta.
      cost: measured traffic C / CM of the current theta.
      round: next round.
      seed: seed of the random searches.
    """
    index, losses, costs = int(state.index), state.losses.copy(), state.costs.copy()
    losses[index], costs[index] = loss, cost
    ages = state.ages + np.isfinite(losses)
    ages[index] = 0
    state = state._replace(losses=losses, costs=costs, ages=ages)
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
    """Returns the value of eq. 1 for each theta, estimated where no measurement counts: [G]."""
    losses, costs = self._estimates(state)
    excess = np.maximum(0, losses - self.config.scout_sigma_al)
    return self.config.scout_lambda_al * excess + self.config.scout_lambda_c * costs

  def _estimates(self, state: ScoutState) -> tuple[np.ndarray, np.ndarray]:
    """Returns (AL, C / CM) of every theta, measured or estimated."""
    grid = np.asarray(self.grid)
    proportion = 1 - grid if self.is_sparsity else 1 / np.maximum(grid, 1e-12)
    counts = np.isfinite(state.losses)
    if self.config.scout_memory:
      counts &= state.ages <= self.config.scout_memory
    used = np.flatnonzero(counts)
    losses, costs = state.losses.copy(), state.costs.copy()
    for i in np.flatnonzero(~counts):
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
