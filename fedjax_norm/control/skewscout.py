"""SkewScout (paper 004, sec. 7): how much to communicate, by how far models have drifted apart."""

import dataclasses
from typing import NamedTuple

import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.typing import Array

SEARCHES = ("hill", "stochastic", "annealing")
_SEARCHING = ",".join(SEARCHES)
_COOLING = 0.9  # multiplies the temperature of annealing from look to look


@dataclasses.dataclass(frozen=True)
class ScoutConfig(Options):
  """Options of SkewScout (see :class:`SkewScout`)."""

  group = "SkewScout"

  skewscout: str = option(
    "off",
    "Whether models travel to other clients to be tested there, and theta is chosen by how well "
    "they do: by hill climbing, stochastic hill climbing or simulated annealing; measure leaves "
    "theta alone.",
    choices=("off", "measure", *SEARCHES),
  )
  scout_every: int = option(
    500, "Mini-batches between looks.", least=1, needs=f"skewscout=measure,{_SEARCHING}"
  )
  scout_examples: int = option(
    256,
    "Training examples of a client that a model is tested on.",
    least=1,
    needs=f"skewscout=measure,{_SEARCHING}",
  )
  scout_grid: tuple[float, ...] = option(
    (),
    "The thetas to choose from, in rising order; those of paper 004, tables 6 to 8, by default.",
    needs=f"skewscout={_SEARCHING}",
  )
  scout_start: float | None = option(
    None,
    "The theta to begin with; the first of the grid by default.",
    needs=f"skewscout={_SEARCHING}",
  )
  scout_lambda_al: float = option(
    50.0, "The weight of the accuracy loss.", least=0, needs=f"skewscout={_SEARCHING}"
  )
  scout_lambda_c: float = option(
    1.0, "The weight of communication.", least=0, needs=f"skewscout={_SEARCHING}"
  )
  scout_sigma_al: float = option(
    0.05, "The accuracy loss that is tolerated.", least=0, needs=f"skewscout={_SEARCHING}"
  )
  scout_temperature: float = option(
    0.5,
    "The temperature of annealing at the first look; each further look has 0.9 of it.",
    above=0,
    needs="skewscout=annealing",
  )

  def check(self) -> None:
    """Refuses a grid that is not in rising order."""
    if list(self.scout_grid) != sorted(set(self.scout_grid)):
      raise UserError(f"--scout_grid is {self.scout_grid}; give different thetas in rising order.")


class ScoutState(NamedTuple):
  """What has been found out, host arrays.

  Attributes:
    index: int64, the theta in use, counted in the grid.
    losses: [G] float64, AL of each theta when it was last in use; NaN before.
    costs: [G] float64, C / CM of each likewise.
    looks: int64, how many there have been.
    next_look: int64, the round before which the next one is.
    sent: int64, what the rounds since the last look have sent, bytes in both directions.
    since: int64, the round of the last look.
  """

  index: Array
  losses: Array
  costs: Array
  looks: Array
  next_look: Array
  sent: Array
  since: Array


class SkewScout(NamedTuple):
  """The controller: after each look it chooses the theta that eq. 1 wants,

    argmin over theta of  lambda_AL max(0, AL(theta) - sigma_AL) + lambda_C C(theta) / CM.

  AL is a share between 0 and 1. C is what the algorithm sends and receives a mini-batch, CM what
  sending and receiving the whole model would take, so that C / CM of BSP is 1.

  Of a theta that has been in use, the last AL and C count. Of one that has not, the paper says
  nothing; here it is taken at its best. Its AL is the greatest of the tighter ones that were in
  use (0 without any), for communicating less does not lose less. Its C is that of the nearest in
  use, in proportion to 1 / T_0, 1 / Iter_Local or 1 - s, and at most 1.

  The searches look at the neighbours of the theta in use alone. ``hill`` goes to the best of the
  three. ``stochastic`` goes to one of the better ones by chance, in proportion to how much better
  it is. ``annealing`` picks a neighbour by chance and goes there if it is better, or else with
  probability exp(-loss / temperature), where the temperature falls from look to look.

  Attributes:
    grid: thetas in rising order, from the most communication to the least.
    start: the theta to begin with, counted in the grid.
    config: the options; ``measure`` keeps theta.
    per_density: whether C is in proportion to 1 - theta (DGC), or else to 1 / theta.
    whole: whether theta counts local steps, of which a look waits for the last (FedAvg).
  """

  grid: tuple[float, ...]
  start: int = 0
  config: ScoutConfig = ScoutConfig(skewscout="hill")
  per_density: bool = False
  whole: bool = False

  @property
  def searches(self) -> bool:
    """Whether it chooses theta, and does not only measure."""
    return self.config.skewscout in SEARCHES

  def init(self) -> ScoutState:
    """The state before the first round."""
    unknown, zero = np.full(len(self.grid), np.nan), np.int64(0)
    start = np.int64(self.start)
    return ScoutState(start, unknown, unknown, zero, self._next(0, self.start), zero, zero)

  def theta(self, state: ScoutState) -> float:
    """The theta in use."""
    return self.grid[int(state.index)]

  def observe(
    self, state: ScoutState, loss: float, cost: float, round: int, seed: int = 0
  ) -> ScoutState:
    """The state after a look.

    Args:
      state: before it.
      loss: AL, as a share.
      cost: C / CM since the last look.
      round: the round before which the look is.
      seed: of the searches' chance.
    """
    index, losses, costs = int(state.index), state.losses.copy(), state.costs.copy()
    losses[index], costs[index] = loss, cost
    state = state._replace(losses=losses, costs=costs)
    if self.searches:
      index = self._choose(index, self.objective(state), int(state.looks), seed)
    return state._replace(
      index=np.int64(index),
      looks=state.looks + 1,
      next_look=self._next(round, index),
      sent=np.int64(0),
      since=np.int64(round),
    )

  def objective(self, state: ScoutState) -> np.ndarray:
    """Eq. 1's of every theta, with the estimates of those that have not been in use: [G]."""
    losses, costs = self._estimates(state)
    excess = np.maximum(0, losses - self.config.scout_sigma_al)
    return self.config.scout_lambda_al * excess + self.config.scout_lambda_c * costs

  def _estimates(self, state: ScoutState) -> tuple[np.ndarray, np.ndarray]:
    grid = np.asarray(self.grid)
    proportion = 1 - grid if self.per_density else 1 / np.maximum(grid, 1e-12)
    tried = np.flatnonzero(np.isfinite(state.losses))
    losses, costs = state.losses.copy(), state.costs.copy()
    for i in np.flatnonzero(~np.isfinite(state.losses)):
      tighter = state.losses[tried[tried < i]]
      losses[i] = tighter.max() if tighter.size else 0.0
      nearest = tried[np.abs(tried - i).argmin()]
      costs[i] = min(1.0, state.costs[nearest] * proportion[i] / proportion[nearest])
    return losses, costs

  def _choose(self, index: int, objective: np.ndarray, looks: int, seed: int) -> int:
    near = [i for i in (index - 1, index + 1) if 0 <= i < len(self.grid)]
    chance = np.random.default_rng([seed, looks])
    match self.config.skewscout:
      case "hill":
        return min([index, *near], key=lambda i: objective[i])
      case "stochastic":
        better = [i for i in near if objective[i] < objective[index]]
        gains = np.array([objective[index] - objective[i] for i in better])
        return int(chance.choice(better, p=gains / gains.sum())) if better else index
      case _:
        if not near:
          return index
        other = int(chance.choice(near))
        worse = max(0.0, objective[other] - objective[index])
        temperature = self.config.scout_temperature * _COOLING**looks
        return other if chance.random() < np.exp(-worse / temperature) else index

  def _next(self, round: int, index: int) -> np.int64:
    theta = int(self.grid[index]) if self.whole else 1
    return np.int64(round + -(-self.config.scout_every // theta) * theta)
