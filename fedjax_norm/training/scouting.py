"""SkewScout in a run: what it sees when it looks, and what that costs."""

from typing import NamedTuple

import numpy as np

from fedjax_norm import trees
from fedjax_norm.algorithms.base import Algorithm
from fedjax_norm.comm import Cost
from fedjax_norm.control.skewscout import ScoutState, SkewScout
from fedjax_norm.control.travel import Travel, accuracy_loss
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.training.clients import ClientStore
from fedjax_norm.training.feed import Place
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
    variables: Variables = algorithm.variables(server)
    steps, model = round - int(state.since), trees.num_bytes(variables)
    bsp = 2 * count * trees.num_bytes(variables["params"]) * steps
    cost = Cost(model + _ANSWER_BYTES, model + _ANSWER_BYTES, trips=2)
    if not self.scout.search:
      cost = Cost(0, 0, trips=0)
    return self.scout.observe(state, loss, int(state.sent) / bsp, round, seed), loss, cost
