"""The contract of every algorithm."""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_norm.comm import Cost
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.local import Metrics
from fedjax_norm.typing import Array, Key, PyTree, Variables


class Context(NamedTuple):
  """What a round reads and does not change; all of it is data, so none of it recompiles.

  Attributes:
    data: the federation, or the part of it that the round's clients need.
    round: the round's index, int32.
    rate: the clients' learning rate, float32.
    key: of the run; whatever is random derives from it, the round and the client's id.
  """

  data: FederatedData
  round: Array
  rate: Array
  key: Key


class Algorithm(NamedTuple):
  """A federated algorithm as pure functions.

  Attributes:
    init: variables -> the server's state, a pytree.
    init_client: the server's state -> one client's state, a pytree that outlives rounds; ``()``
      when clients keep nothing.
    round: (server, clients' states [m, ...], cohort [m], context) -> (server, clients' states,
      metrics). The cohort is an array of rows in the context's data.
    variables: the server's state -> the global model.
    client_variables: (server's state, one client's state) -> that client's model; None when all
      clients use the global one.
    local_steps: (clients' sizes, host) -> the number of their local steps a round.
    cost: what a client sends a round.
  """

  init: Callable[[Variables], PyTree]
  init_client: Callable[[PyTree], PyTree]
  round: Callable[[PyTree, PyTree, Array, Context], tuple[PyTree, PyTree, Metrics]]
  variables: Callable[[PyTree], Variables]
  client_variables: Callable[[PyTree, PyTree], Variables] | None
  local_steps: Callable[[Array], Array]
  cost: Cost
