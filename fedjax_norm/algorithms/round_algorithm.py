"""What a federated algorithm consists of: the functions and values that the training loop uses."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.algorithms.costs.clock import Pace
from fedjax_norm.algorithms.costs.ledger import Cost, Traffic
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.local_training import Metrics
from fedjax_norm.typing import Array, Key, PyTree, Variables


class RoundContext(NamedTuple):
  """The inputs of a round; all are arrays, so that a new value does not recompile the program.

  Attributes:
    data: the data of all clients, or only of the clients that take part in the round.
    round: index of the round, int32.
    rate: learning rate of the clients, float32.
    key: random key of the run; random numbers derive from this key, the round and the client's id.
    theta: communication threshold (paper 004), float32: Gaia's threshold T_t, FedAvg's local steps
      Iter_Local or DGC's sparsity s; 0 for algorithms without a threshold.
  """

  data: FederatedData
  round: Array
  rate: Array
  key: Key
  theta: Array = 0.0


SHARDED = RoundContext(*[name == "data" for name in RoundContext._fields])  # type: ignore[arg-type]
"""For each field of a context, whether ``ClientMapping.map_reduce`` shards it over devices."""


class Views(NamedTuple):
  """What a run can evaluate for each client, as functions of (server state, client state).

  Attributes:
    client: the client's model; None if all clients use the global model.
    evaluate_global: whether the global model is evaluated too, although clients have local models.
    traveling: the model that is tested on other clients' data (model traveling, paper 004, sec. 7);
      None for the global model.
    residual: updates that the client has accumulated but not sent, with the structure of the
      parameters; None for algorithms that send every update.
  """

  client: Callable[[PyTree, PyTree], Variables] | None = None
  evaluate_global: bool = False
  traveling: Callable[[PyTree, PyTree], Variables] | None = None
  residual: Callable[[PyTree, PyTree], PyTree] | None = None


class Report(NamedTuple):
  """What an algorithm adds to the output of a run.

  Attributes:
    columns: server state -> further columns of ``metrics.csv``: {name: scalar}.
    client_rows: states of all K clients, arrays [K, ...] in host memory -> rows of ``clients.csv``;
      None for algorithms without such a file.
    summary: () -> (name, value) pairs that are printed at the start of a run.
  """

  columns: Callable[[PyTree], Mapping[str, Any]] = lambda server: {}
  client_rows: Callable[[PyTree], list[dict[str, float]]] | None = None
  summary: Callable[[], list[tuple[str, str]]] = list


class Algorithm(NamedTuple):
  """A federated algorithm.

  Attributes:
    init: initial variables -> server state, a NamedTuple with the global model as ``variables``.
    init_client: server state -> initial state of a client, a pytree that the client keeps between
      rounds; ``()`` for clients without state.
    round: (server state, client states [m, ...], cohort [m], :class:`RoundContext`) -> (server
      state, client states, metrics). The cohort lists the clients by their rows in the context's
      data; -1 is padding.
    local_steps: numbers of examples of a round's clients -> numbers of local steps of the clients
      with an update that the round uses; arrays in host memory.
    cost: traffic of a client in a round, except the traffic that ``sent`` counts.
    sent: server state -> traffic of all clients since the start of the run that depends on the
      values sent (sparse updates); None if there is no such traffic.
    pass_cost: traffic of a client when running statistics are recomputed, with step costs for each
      example; None if the client computes with the whole model, so that no activations are sent.
    pace: how the clients of a round wait for each other.
    averages_next: server state -> whether the clients' models are averaged before the next step;
      None for algorithms that never average models between steps.
    views: what can be evaluated for each client.
    report: what is added to the output of a run.
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
