"""SkewScout in a run: measuring models on other clients, the cost of it, checks of the options."""

from typing import Any, NamedTuple

import numpy as np

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.contract import Method
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.control.model_traveling import ModelTraveling, accuracy_loss
from fedjax_norm.control.skewscout import ScoutConfig, ScoutState, SkewScout
from fedjax_norm.control.theta import ThetaSchedule
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import Place
from fedjax_norm.typing import Key, PyTree

_ACCURACY_BYTES = 4


class SkewScoutRun(NamedTuple):
  """SkewScout with the measurements that it needs.

  Attributes:
    scout: chooses theta.
    model_traveling: {phase of FixBN, see ``control.freeze``: function that tests clients' models on
      other clients' data}.
  """

  scout: SkewScout
  model_traveling: dict[str, ModelTraveling]

  def measure(
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
    """Tests clients' models on other clients' data before a round and chooses the next theta.

    Unless theta is fixed, the traffic is charged: every model goes up and to another client, and an
    accuracy comes back. ``data`` has all clients' data on the device, client k in row k; ``place``
    puts arrays on the devices.

    Returns:
      (new state of SkewScout, mean loss of accuracy AL, cost of the measurement for a client).
    """
    count = data.num_clients
    states, when = place(store.gather(np.arange(count))), place(np.int32(round))
    loss = accuracy_loss(*self.model_traveling[phase](server, states, data, when, key))
    steps = round - int(state.since)
    bsp = 2 * count * tree_leaves.num_bytes(server.variables["params"]) * steps
    one_way = tree_leaves.num_bytes(server.variables) + _ACCURACY_BYTES
    cost = Cost(one_way, one_way, trips=2) if self.scout.searches else Cost(0, 0, trips=0)
    return self.scout.observe(state, loss, int(state.sent) / bsp, round, seed), loss, cost


def make_scout(config: ScoutConfig, method: Method, value: float) -> SkewScout | None:
  """Makes SkewScout, with theta fixed at ``value`` if it only measures; None if it is off.

  Raises UserError if the method's theta does not allow the grid or the initial value.
  """
  theta = method.theta
  assert theta is not None
  if config.skewscout == "off":
    return None
  if config.skewscout == "measure":
    return SkewScout((value,), 0, config, theta.is_sparsity, theta.is_integer)
  if not theta.grid:
    raise UserError(
      f"{method.name} sends every update completely, so --skewscout={config.skewscout} has nothing "
      "to choose; use an algorithm with a threshold, such as gaia, or --skewscout=measure."
    )
  grid = config.scout_grid or theta.grid
  if theta.is_integer:
    valid = all(t >= 1 and float(t).is_integer() for t in grid)
    wanted = "whole numbers of at least 1"
  elif theta.is_sparsity:
    valid, wanted = all(0 <= t < 1 for t in grid), "shares of at least 0 and below 1"
  else:
    valid, wanted = all(0 <= t < np.inf for t in grid), "numbers of at least 0"
  if not valid:
    raise UserError(f"--scout_grid is {grid}; give {wanted}.")
  start = grid[0] if config.scout_start is None else config.scout_start
  if start not in grid:
    raise UserError(
      f"--scout_start is {start:g}, which the grid {grid} lacks; choose a value of the grid."
    )
  return SkewScout(grid, grid.index(start), config, theta.is_sparsity, theta.is_integer)


def make_theta_schedule(config: Any, method: Method, rounds: int) -> ThetaSchedule | None:
  """Makes the schedule of theta over a run's rounds; None if the method has no theta to report.

  Raises UserError for options that :func:`make_scout` refuses, for thetas that are not finite, and
  if the run ends before the first measurement.
  """
  theta = method.theta
  if theta is None:
    return None
  values = np.asarray(theta.values(config, rounds), np.float32)
  if values.shape != (rounds,) or not np.isfinite(values).all():
    raise UserError(f"{method.name} must have a finite theta for each of the {rounds} rounds.")
  scout = make_scout(config, method, float(values[0]))
  if scout and (first := scout.init().next_look) > rounds:
    raise UserError(
      f"SkewScout measures first after {first} rounds, but the run has {rounds}; lower "
      "--scout_every."
    )
  if not (scout or theta.grid or values.any()):
    return None
  return ThetaSchedule(values, theta.follows_rate, scout)
