"""SkewScout in a run: what it sees when it looks, and what that costs."""

from typing import Any, NamedTuple

import numpy as np

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.contract import Algorithm, Method
from fedjax_norm.algorithms.ledger import Cost
from fedjax_norm.control.model_traveling import Travel, accuracy_loss
from fedjax_norm.control.skewscout import ScoutConfig, ScoutState, SkewScout
from fedjax_norm.control.theta import Dial
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import Place
from fedjax_norm.typing import Key, PyTree, Variables

# An accuracy, on its way back.
_ANSWER_BYTES = 4


class Scouting(NamedTuple):
  """A controller and its eyes.

  Attributes:
    scout: the controller.
    travels: each phase's model travelling.
  """

  scout: SkewScout
  travels: dict[str, Travel]

  def look(
    self,
    state: ScoutState,
    phase: str,
    algorithm: Algorithm,
    server: PyTree,
    store: ClientStore,
    data: FederatedData,
    place: Place,
    key: Key,
    round: int,
    seed: int,
  ) -> tuple[ScoutState, float, Cost]:
    """Lets models travel and chooses the next theta.

    The journey is charged where it serves the algorithm, that is, unless theta stays in any case:
    every model goes up and to its host, and an accuracy comes back.

    Args:
      state: the controller's.
      phase: of the run.
      algorithm: of the phase.
      server: its state.
      store: the clients' states.
      data: all clients' data on the device, client k in row k.
      place: puts a tree where programs want it.
      key: of the run.
      round: the round before which the look is.
      seed: of the run.

    Returns:
      (the controller's state, AL, what the journey costs a client).
    """
    count = data.num_clients
    states, when = place(store.gather(np.arange(count))), place(np.int32(round))
    loss = accuracy_loss(*self.travels[phase](server, states, data, when, key))
    variables: Variables = server.variables
    steps, model = round - int(state.since), tree_leaves.num_bytes(variables)
    bsp = 2 * count * tree_leaves.num_bytes(variables["params"]) * steps
    cost = Cost(model + _ANSWER_BYTES, model + _ANSWER_BYTES, trips=2)
    if not self.scout.searches:
      cost = Cost(0, 0, trips=0)
    return self.scout.observe(state, loss, int(state.sent) / bsp, round, seed), loss, cost


def make_scout(config: ScoutConfig, method: Method, value: float) -> SkewScout | None:
  """SkewScout as the options say; None where it is off.

  Args:
    config: the options.
    method: whose theta it chooses.
    value: the theta of a run in which it only measures.

  Raises:
    UserError: a grid or a start that the method's theta cannot have.
  """
  theta = method.theta
  assert theta is not None
  if config.skewscout == "off":
    return None
  if config.skewscout == "measure":
    return SkewScout((value,), 0, config, theta.rises, theta.whole)
  if not theta.grid:
    raise UserError(
      f"{method.name} always sends everything, so --skewscout={config.skewscout} has nothing to "
      "choose; use another algorithm, or --skewscout=measure."
    )
  grid = config.scout_grid or theta.grid
  least, most = (1.0, np.inf) if theta.whole else (0.0, 1.0 if theta.rises else np.inf)
  if not all(least <= one < most and (not theta.whole or float(one).is_integer()) for one in grid):
    whole, share = "whole numbers of at least 1", "shares of at least 0 and below 1"
    wanted = whole if theta.whole else share if theta.rises else "numbers of at least 0"
    raise UserError(f"--scout_grid is {grid}; give {wanted}.")
  start = grid[0] if config.scout_start is None else config.scout_start
  if start not in grid:
    raise UserError(f"--scout_start is {start:g}, which the grid {grid} lacks.")
  return SkewScout(grid, grid.index(start), config, theta.rises, theta.whole)


def make_dial(config: Any, method: Method, rounds: int) -> Dial | None:
  """What sets a method's theta in a run; None where it has none.

  Args:
    config: the method's options, with those of :class:`ScoutConfig`.
    method: a row of the registry.
    rounds: of the run.

  Raises:
    UserError: as :func:`make_scout`, thetas that cannot be, or a run that ends before SkewScout
      looks.
  """
  theta = method.theta
  if theta is None:
    return None
  values = np.asarray(theta.values(config, rounds), np.float32)
  if values.shape != (rounds,) or not np.isfinite(values).all():
    raise UserError(f"{method.name} must give a finite theta for each of the {rounds} rounds.")
  scout = make_scout(config, method, float(values[0]))
  if scout and (first := scout.init().next_look) > rounds:
    raise UserError(
      f"SkewScout first looks after {first} rounds, which a run of {rounds} never reaches; lower "
      "--scout_every."
    )
  return Dial(values, theta.follows_rate, scout) if scout or theta.grid or values.any() else None
