"""Any federated algorithm, as the training loop runs it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.algorithms.costs.clock import Pace
from fedjax_norm.algorithms.costs.ledger import Cost, Traffic
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.local_training import Metrics
from fedjax_norm.typing import Array, Key, PyTree, Variables


class RoundContext(NamedTuple):
  """Inputs of a round; all of them are data, so that no value of theirs recompiles the program.

  Attributes:
    data: the federated data, or the rows that the round's clients need.
    round: index of the round, int32.
    rate: learning rate of the clients, float32.
    key: key of the run; every random number derives from it, the round and the client's id.
    theta: communication threshold (paper 004), float32: Gaia's threshold T_t, FedAvg's local steps
      Iter_Local or DGC's sparsity s; 0 for algorithms without.
  """

  data: FederatedData
  round: Array
  rate: Array
  key: Key
  theta: Array = 0.0


SHARDED = RoundContext(*[name == "data" for name in RoundContext._fields])  # type: ignore[arg-type]
"""Which fields of a context are sharded over devices (see ``ClientMapping.map_reduce``)."""


class Views(NamedTuple):
  """Models and values of clients that a run can test, functions of (server state, client state).

  Attributes:
    client: the client's model; None if all clients use the global model.
    evaluate_global: whether the global model is tested although clients have local models.
    traveling: the model that travels to other clients (paper 004, sec. 7); None for the global
      model.
    residual: updates that the client has accumulated but not sent, of the parameters' structure;
      None for algorithms that send every update.
  """

  client: Callable[[PyTree, PyTree], Variables] | None = None
  evaluate_global: bool = False
  traveling: Callable[[PyTree, PyTree], Variables] | None = None
  residual: Callable[[PyTree, PyTree], PyTree] | None = None


class Report(NamedTuple):
  """An algorithm's additions to a run's output.

  Attributes:
    columns: server state -> further columns of ``metrics.csv``, scalars by name.
    client_rows: states of all clients [K, ...], host -> rows of ``clients.csv``.
    summary: () -> name/value pairs printed at the start of a run.
  """

  columns: Callable[[PyTree], Mapping[str, Any]] = lambda server: {}
  client_rows: Callable[[PyTree], list[dict[str, float]]] | None = None
  summary: Callable[[], list[tuple[str, str]]] = list


class Algorithm(NamedTuple):
  """A federated algorithm.

  Attributes:
    init: variables -> server state, a NamedTuple with a field ``variables``, the global model.
    init_client: server state -> state of a client, a pytree that lasts over rounds; ``()`` for
      clients without state.
    round: (server state, client states [m, ...], cohort [m], :class:`RoundContext`) -> (server
      state, client states, metrics). The cohort holds rows of the context's data; -1 is padding.
    local_steps: numbers of examples of the clients, host -> numbers of local steps of those clients
      whose update the round uses.
    cost: traffic of a client in a round that does not depend on the values that it sends.
    sent: server state -> further traffic since the start of the run, which depends on the values
      that were sent; None if there is no such traffic.
    pass_cost: traffic of a client when batch statistics are recomputed, per example; None if the
      client has the whole model.
    pace: how the clients of a round wait for each other.
    averages_next: server state -> whether clients' models are averaged before their next step; None
      for algorithms without such a step.
    views: further models that can be tested.
    report: further output.
  """

  init: Callable[[Variables], PyTree]
  init_client: Callable[[PyTree], PyTree]
  round: Callable[[PyTree, PyTree, Array, RoundContext], tuple[PyTree, PyTree, Metrics]]
  local_steps: Callable[[np.ndarray], np.ndarray]
  cost: Cost
  sent: Callable[[PyTree], Traffic] | None = None
  pass_cost: Cost | None = None
  pace: Pace = "lockstep"
  averages_next: Callable[[PyTree], Array] | None = None
  views: Views = Views()
  report: Report = Report()
