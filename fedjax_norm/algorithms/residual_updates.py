"""The common part of Gaia and DGC: clients send some elements of the updates they accumulated.

All clients have the shared weights b, and client k has the residual v_k: updates that it has not
sent yet. So w_k = b + v_k is the local model of client k. In the pseudo-code of paper 004 a client
adds the other clients' updates to w_k. Adding all clients' updates to b is equivalent, but without
K copies that could drift apart by rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.batch_statistics import check_policy, combiner
from fedjax_norm.algorithms.contract import Setup
from fedjax_norm.algorithms.costs import ledger
from fedjax_norm.algorithms.costs.ledger import Counter, TrafficCounter, exchange_cost
from fedjax_norm.algorithms.round_algorithm import SHARDED, Algorithm, RoundContext, Views
from fedjax_norm.algorithms.step_gradient import make_step_gradient
from fedjax_norm.local_training import LocalConfig, Metrics, optimizer
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Key, PyTree, Variables

Choose = Callable[[Array, Array, Array, Key], Array]
"""(tensor of v_k, same tensor of w_k, theta, key) -> which elements are sent now, bool."""

Scope = Callable[[Choose, PyTree, PyTree, Array, Key], PyTree]
"""(choose, v_k, w_k, theta, key) -> mask of the elements that are sent now, bool, like v_k."""


class ClientState(NamedTuple):
  """The state of client k.

  Attributes:
    momentum: u_k, as the state of the client's optimizer.
    residual: v_k, with the structure of the parameters.
    batch_stats: local running statistics; () unless they stay on the client.
  """

  momentum: PyTree
  residual: PyTree
  batch_stats: PyTree


class ServerState(NamedTuple):
  """The state that all clients share.

  Attributes:
    weights: shared weights b.
    variables: global model.
    sent: traffic of the updates since the start of the run.
  """

  weights: PyTree
  variables: Variables
  sent: TrafficCounter


def divide(residual: PyTree, chosen: PyTree) -> tuple[PyTree, PyTree]:
  """Returns (chosen elements, other elements) with zeros elsewhere; they sum to the residual."""
  sent = jax.tree.map(lambda v, s: jnp.where(s, v, 0), residual, chosen)
  return sent, jax.tree.map(lambda v, s: jnp.where(s, 0, v), residual, chosen)


def each_tensor(
  choose: Choose, residual: PyTree, weights: PyTree, theta: Array, key: Key
) -> PyTree:
  """Chooses among the elements of each tensor separately (a ``Scope``)."""
  return jax.tree.map(lambda v, w: choose(v, w, theta, key), residual, weights)


def all_tensors(
  choose: Choose, residual: PyTree, weights: PyTree, theta: Array, key: Key
) -> PyTree:
  """Chooses among the elements of all tensors together, as one vector (a ``Scope``)."""
  v, tensors_of = ravel_pytree(residual)
  chosen = choose(v, ravel_pytree(weights)[0], theta, key)
  return jax.tree.map(lambda mask: mask > 0, tensors_of(chosen.astype(v.dtype)))


def residual_algorithm(
  config: LocalConfig,
  setup: Setup,
  choose: Choose,
  *,
  local_models: bool,
  clears_momentum: bool,
  scope: Scope = each_tensor,
) -> Algorithm:
  """Makes an algorithm whose round is one step of every client k:

    w <- b + v_k if local_models else b
    u_k <- m u_k - eta grad f(w)
    v_k <- v_k + u_k
    S <- choose(v_k, b + v_k, theta)
    send v_k S;  v_k <- v_k not S;  u_k <- u_k not S if clears_momentum
    b <- b + sum of the updates that all clients sent

  m is the momentum, and ``choose`` returns the mask S of each tensor, or of one vector of all
  tensors (``scope``); frozen parameters are in neither. The learning rate eta multiplies the
  accumulated u_k, so that a lower rate takes effect immediately; at a constant rate this is the
  paper's recursion.

  The global model is b, or the mean of the local models if ``local_models``. A client sends its
  update to the server (``ledger.update_bytes``; a message per tensor in either scope, so that an
  index counts within its tensor), which sends the sum to all clients. With
  ``batch_stats=local`` each client has its own running statistics; the global model has the mean.

  Raises UserError if the policy ``batch_stats`` does not fit the norm.
  """
  spec, policy = setup.model.norm, config.statistics_policy(setup.model.norm)
  check_policy(policy, spec)
  local_stats = policy == "local"
  gradient, sgd = make_step_gradient(config, setup), optimizer(config)
  global_policy = "mean" if local_stats else policy
  stats_policy = combiner(global_policy if spec.updates_running_statistics else "frozen")

  def init_client(server: ServerState) -> ClientState:
    stats = server.variables["batch_stats"] if local_stats else ()
    return ClientState(sgd.init(server.weights), optax.tree.zeros_like(server.weights), stats)

  def model(server: ServerState, client: ClientState, local: bool) -> Variables:
    """Returns the client's model with the local weights w_k or the shared weights b."""
    params = optax.tree.add(server.weights, client.residual) if local else server.weights
    stats = {"batch_stats": client.batch_stats} if local_stats else {}
    return {**server.variables, "params": params, **stats}

  def client_step(shared: Any, item: Any) -> tuple[PyTree, ClientState]:
    (server, context), (row, client) = shared, item
    variables = model(server, client, local_models)
    grads, stats, metrics = gradient(context, row, variables)
    updates, momentum = sgd.update(grads, client.momentum, variables["params"])
    residual = optax.tree.add(client.residual, optax.tree.scale(-context.rate, updates))

    weights = optax.tree.add(server.weights, residual)
    key = jax.random.fold_in(stream(context.key, Stream.SELECTION), context.round)
    key = jax.random.fold_in(key, context.data.clients[row])
    # Frozen parameters never change, not even by updates that were accumulated before.
    v, w = (ledger.without(tree, tree, config.frozen_paths) for tree in (residual, weights))
    chosen = jax.tree.map(lambda s: s & (row >= 0), scope(choose, v, w, context.theta, key))
    frozen = tree_leaves.pick(residual, config.frozen_paths)
    chosen = tree_leaves.put(chosen, optax.tree.zeros_like(frozen, bool))
    update, residual = divide(residual, chosen)
    if clears_momentum:
      momentum = optax.tree.map_params(sgd, lambda u, s: jnp.where(s, 0, u), momentum, chosen)
    present = (row >= 0).astype(jnp.float32)
    sums = {
      "update": update,
      "residual": optax.tree.scale(present, residual) if local_models else (),
      "sent": Counter.of(ledger.update_bytes(update) * (row >= 0)),
      "count": present,
      "stats": stats_policy.to_sums(stats, present, server.variables.get("batch_stats", {})),
      "metrics": metrics,
    }
    return sums, ClientState(momentum, residual, stats if local_stats else ())

  def step(
    server: ServerState, clients: ClientState, rows: Array, context: RoundContext
  ) -> tuple[ServerState, ClientState, Metrics]:
    sums, clients = setup.mapping.map_reduce(
      client_step, (server, context), (rows, clients), (False, SHARDED)
    )
    weights = optax.tree.add(server.weights, sums["update"])
    down = Counter.of(ledger.update_bytes(sums["update"])).times((rows >= 0).sum())
    mean_residual = optax.tree.scale(1 / sums["count"], sums["residual"])
    params = optax.tree.add(weights, mean_residual) if local_models else weights
    variables = {**server.variables, "params": params}
    variables = stats_policy.combine(variables, sums["stats"], sums["count"])
    sent = server.sent.add(sums["sent"], down, Counter.of(0))
    return ServerState(weights, variables, sent), clients, sums["metrics"]

  return Algorithm(
    init=lambda variables: ServerState(
      jax.tree.map(jnp.array, variables["params"]), variables, TrafficCounter.zeros()
    ),
    init_client=init_client,
    round=step,
    local_steps=config.steps,
    # The parameters are counted in ``sent``; here only the running statistics, if they are sent.
    cost=exchange_cost(setup.model, setup.image_shape, policy, (), ()),
    sent=lambda server: server.sent.traffic(),
    views=Views(
      client=partial(model, local=local_models) if local_models or local_stats else None,
      evaluate_global=local_models,
      traveling=partial(model, local=True),
      residual=lambda server, client: client.residual,
    ),
  )
