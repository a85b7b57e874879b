"""SkewScout in a run: its measurements, their cost, and the checks of its options."""

from typing import Any, NamedTuple

import numpy as np

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.algorithm import Algorithm
from fedjax_norm.algorithms.contract import Method
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.control.model_traveling import ModelTraveling, accuracy_loss
from fedjax_norm.control.skewscout import ScoutConfig, ScoutState, SkewScout
from fedjax_norm.control.theta import ThetaSchedule
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import Place
from fedjax_norm.typing import Key, PyTree, Variables

_ACCURACY_BYTES = 4


class SkewScoutRun(NamedTuple):
  """The controller with its measurements.

  Attributes:
    scout: controller.
    model_traveling: model traveling of each phase.
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
    """Tests traveling models and chooses the next theta.

    Unless theta is fixed, the traffic is charged: every model goes up and to another client, and an
    accuracy comes back.

    Args:
      state: state of the controller.
      phase: phase of the run.
      algorithm: algorithm of the phase.
      server: state of the server.
      store: states of the clients.
      data: data of all clients on the device, client k in row k.
      place: function that puts a tree on the devices.
      key: key of the run.
      round: round before which the models travel.
      seed: seed of the run.

    Returns:
      (state of the controller, AL, cost of the measurement for a client).
    """
    count = data.num_clients
    states, when = place(store.gather(np.arange(count))), place(np.int32(round))
    loss = accuracy_loss(*self.model_traveling[phase](server, states, data, when, key))
    variables: Variables = server.variables
    steps, model = round - int(state.since), tree_leaves.num_bytes(variables)
    bsp = 2 * count * tree_leaves.num_bytes(variables["params"]) * steps
    cost = Cost(model + _ACCURACY_BYTES, model + _ACCURACY_BYTES, trips=2)
    if not self.scout.searches:
      cost = Cost(0, 0, trips=0)
    return self.scout.observe(state, loss, int(state.sent) / bsp, round, seed), loss, cost


def make_scout(config: ScoutConfig, method: Method, value: float) -> SkewScout | None:
  """Makes the controller, with theta ``value`` if it only measures; None if SkewScout is off.

  Raises:
    UserError: a grid or a start that the method's theta does not allow.
  """
  theta = method.theta
  assert theta is not None
  if config.skewscout == "off":
    return None
  if config.skewscout == "measure":
    return SkewScout((value,), 0, config, theta.is_sparsity, theta.is_integer)
  if not theta.grid:
    raise UserError(
      f"{method.name} always sends everything, so --skewscout={config.skewscout} has nothing to "
      "choose; use another algorithm, or --skewscout=measure."
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
      f"--scout_start is {start:g}, which the grid {grid} lacks; choose one of the grid."
    )
  return SkewScout(grid, grid.index(start), config, theta.is_sparsity, theta.is_integer)


def make_theta_schedule(config: Any, method: Method, rounds: int) -> ThetaSchedule | None:
  """Makes the schedule of a method's theta in a run; None for methods without.

  Raises:
    UserError: options that :func:`make_scout` refuses, thetas that are not finite, or a run that
      ends before the first measurement.
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
      f"SkewScout measures first after {first} rounds, but the run has {rounds}; lower "
      "--scout_every."
    )
  if not (scout or theta.grid or values.any()):
    return None
  return ThetaSchedule(values, theta.follows_rate, scout)
