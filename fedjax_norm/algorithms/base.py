"""The contract of every algorithm."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import linen as nn

from fedjax_norm import comm, models, trees
from fedjax_norm.clock import Pace
from fedjax_norm.comm import Cost, Traffic
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
    theta: what sets how much the algorithm communicates (paper 004), float32: Gaia's threshold T_t,
      FedAvg's local steps Iter_Local, the sparsity s; 0 for algorithms without.
  """

  data: FederatedData
  round: Array
  rate: Array
  key: Key
  theta: Array = 0.0


HELD = Context(*[name == "data" for name in Context._fields])  # type: ignore[arg-type]
"""What of a context each device holds a part of its own of (see ``Nodes.map_reduce``)."""


class Algorithm(NamedTuple):
  """A federated algorithm as pure functions.

  Attributes:
    init: variables -> the server's state, a pytree.
    init_client: the server's state -> one client's state, a pytree that outlives rounds; ``()``
      when clients keep nothing.
    round: (server, clients' states [m, ...], cohort [m], context) -> (server, clients' states,
      metrics). The cohort is an array of rows in the context's data; -1 is nobody.
    variables: the server's state -> the global model.
    client_variables: (server's state, one client's state) -> that client's model; None when all
      clients use the global one.
    global_view: whether the global model is tested where clients have their own, as what they would
      make together.
    local_steps: (clients' sizes, host) -> the numbers of local steps a round, of each of them that
      a round hears.
    cost: what a client sends a round, whatever it has learnt.
    sent: the server's state -> what else has been sent since the start, where that depends on what
      was learnt; None where it does not.
    local_variables: (server's state, one client's state) -> the model that travels to other clients
      to be tested there (paper 004, sec. 7); None is the global one.
    residual: (server's state, one client's state) -> what the client has accumulated and not yet
      sent, of the parameters' structure; None for algorithms that hold nothing back.
    averages_next: the server's state -> whether clients' models are averaged before their next
      step; None where that has no meaning.
    columns: the server's state -> further columns of a row of metrics, scalars by name; they are
      read at evaluations.
    client_rows: all clients' states [K, ...], host -> the rows of ``clients.csv``; None where there
      is nothing to tell of each client.
    told: () -> what the start of a run tells of the algorithm, names and values.
    pace: how a round's clients wait for one another.
  """

  init: Callable[[Variables], PyTree]
  init_client: Callable[[PyTree], PyTree]
  round: Callable[[PyTree, PyTree, Array, Context], tuple[PyTree, PyTree, Metrics]]
  variables: Callable[[PyTree], Variables]
  client_variables: Callable[[PyTree, PyTree], Variables] | None
  local_steps: Callable[[Array], Array]
  cost: Cost
  global_view: bool = False
  sent: Callable[[PyTree], Traffic] | None = None
  local_variables: Callable[[PyTree, PyTree], Variables] | None = None
  residual: Callable[[PyTree, PyTree], PyTree] | None = None
  averages_next: Callable[[PyTree], Array] | None = None
  columns: Callable[[PyTree], dict[str, Array]] = lambda server: {}
  client_rows: Callable[[PyTree], list[dict[str, float]]] | None = None
  told: Callable[[], list[tuple[str, str]]] = list
  pace: Pace = "together"


def round_cost(
  model: nn.Module,
  image_shape: tuple[int, int, int],
  batch_stats: str,
  frozen: frozenset[str] = frozenset(),
  personal: frozenset[str] = frozenset(),
  momentum: bool = False,
  parameters: bool = True,
) -> Cost:
  """What a client sends and receives in a round that exchanges a model (or its gradient).

  Args:
    model: the model.
    image_shape: (H, W, C).
    batch_stats: the policy for running statistics.
    frozen: paths of parameters that come down and do not go up.
    personal: paths of parameters that do neither.
    momentum: whether the optimizer's momentum travels too, of the size of the parameters.
    parameters: whether the model's parameters (or their gradients) travel in full.
  """
  spec = model.norm
  variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_shape))
  up = comm.model_bytes(variables, personal | frozen) if parameters else 0
  down = comm.model_bytes(variables, personal) if parameters else 0
  stats = trees.num_bytes(variables.get("batch_stats", {}))
  if batch_stats in ("mean", "moments"):
    up += stats if spec.updates_running_statistics else 0
    down += stats  # a client gets the whole model, frozen statistics too
  elif batch_stats == "recalibrate" and not spec.updates_running_statistics:
    down += stats
  if momentum:
    size = trees.num_bytes(variables["params"])
    up, down = up + size, down + size
  norms = models.norm_modules(model, image_shape)
  return Cost(up, down, *comm.lockstep_cost(spec, list(norms.values())))
