"""What Gaia and DGC have in common: partitions that share a part of what they have accumulated.

All partitions hold the shared weights b, and each holds what it has not shared yet, its residual
v_k. So w_k = b + v_k is partition k's own model: what it has learnt by itself, and what all have
shared. In the pseudo-code of paper 004 a partition adds the others' shared updates to w_k; b, which
takes everybody's, says the same without K copies that could drift apart by rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms import ledger
from fedjax_norm.algorithms.batch_statistics import check_policy, combiner
from fedjax_norm.algorithms.contract import SHARDED, Algorithm, RoundContext, Setup, Views
from fedjax_norm.algorithms.ledger import Counter, Sent, exchange_cost
from fedjax_norm.algorithms.step_gradient import make_step_gradient
from fedjax_norm.local_training import LocalConfig, optimizer
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Key, PyTree, Variables

Choose = Callable[[Array, Array, Array, Key], Array]
"""(a tensor of v_k, the same of w_k, theta, key) -> which elements are shared now, bool."""


class Partition(NamedTuple):
  """What a partition k holds.

  Attributes:
    momentum: u_k, as its optimizer's state.
    residual: v_k, of the parameters' structure.
    batch_stats: its own running statistics; () unless they stay with it.
  """

  momentum: PyTree
  residual: PyTree
  batch_stats: PyTree


class Shared(NamedTuple):
  """What all partitions have in common.

  Attributes:
    weights: b.
    variables: the global model.
    sent: the updates' traffic since the start.
  """

  weights: PyTree
  variables: Variables
  sent: Sent


def divide(residual: PyTree, chosen: PyTree) -> tuple[PyTree, PyTree]:
  """(what is shared, what stays): disjoint, and together the residual, bit by bit."""
  share = jax.tree.map(lambda v, s: jnp.where(s, v, 0), residual, chosen)
  return share, jax.tree.map(lambda v, s: jnp.where(s, 0, v), residual, chosen)


def residual_algorithm(
  config: LocalConfig, setup: Setup, choose: Choose, *, own_models: bool, clears_momentum: bool
) -> Algorithm:
  """An algorithm whose round is one step of every partition k:

    w <- b + v_k if own_models else b
    u_k <- m u_k - eta grad f(w)
    v_k <- v_k + u_k
    S <- choose(v_k, b + v_k, theta)
    share v_k S;  v_k <- v_k not S;  u_k <- u_k not S if clears_momentum
    b <- b + sum of what all partitions shared

  The learning rate multiplies the momentum from outside, as in all of this package's SGD: a rate
  that falls takes effect at once. At a constant rate it is the paper's recursion.

  The global model is b, or the mean of the partitions' own models. A partition sends its share to
  the server (``comm.update_bytes``), which sends the sum to all.

  Args:
    config: a partition's batch, its SGD, and how running statistics are combined; ``local`` leaves
      them with the partition, and the global model has their mean.
    setup: what it is built for.
    choose: S, tensor by tensor.
    own_models: whether partitions compute with their own models, or with the shared one.
    clears_momentum: whether what is shared loses its momentum.

  Raises:
    UserError: options that the model's norm denies.
  """
  spec, policy = setup.model.norm, config.statistics_policy(setup.model.norm)
  check_policy(policy, spec)
  local_stats = policy == "local"
  gradient, sgd = make_step_gradient(config, setup), optimizer(config)
  mean = "mean" if local_stats else policy
  stats_policy = combiner(mean if spec.updates_running_statistics else "frozen")

  def init(variables: Variables) -> Shared:
    return Shared(jax.tree.map(jnp.array, variables["params"]), variables, Sent.zeros())

  def init_partition(server: Shared) -> Partition:
    zeros = jax.tree.map(jnp.zeros_like, server.weights)
    stats = server.variables["batch_stats"] if local_stats else ()
    return Partition(sgd.init(server.weights), zeros, stats)

  def with_stats(server: Shared, own: Partition, params: PyTree) -> Variables:
    stats = {"batch_stats": own.batch_stats} if local_stats else {}
    return {**server.variables, "params": params, **stats}

  def own_variables(server: Shared, own: Partition) -> Variables:
    return with_stats(server, own, optax.tree.add(server.weights, own.residual))

  def partition(shared, item):
    (server, context), (row, own) = shared, item
    at = own_variables(server, own) if own_models else with_stats(server, own, server.weights)
    grads, stats, metrics = gradient(context, row, at)
    updates, momentum = sgd.update(grads, own.momentum, at["params"])
    residual = optax.tree.add(own.residual, optax.tree.scale(-context.rate, updates))

    weights = optax.tree.add(server.weights, residual)
    key = jax.random.fold_in(stream(context.key, Stream.SELECTION), context.round)
    key = jax.random.fold_in(key, context.data.clients[row])
    chosen = jax.tree.map(lambda v, w: choose(v, w, context.theta, key), residual, weights)
    # What is frozen stays as it is: not even what was held back before moves it.
    frozen = tree_leaves.pick(chosen, config.frozen_paths)
    chosen = tree_leaves.put(chosen, jax.tree.map(jnp.zeros_like, frozen))
    chosen = jax.tree.map(lambda s: s & (row >= 0), chosen)
    share, rest = divide(residual, chosen)
    if clears_momentum:
      momentum = optax.tree.map_params(sgd, lambda u, s: jnp.where(s, 0, u), momentum, chosen)
    here = (row >= 0).astype(jnp.float32)
    sums = {
      "share": share,
      "rest": optax.tree.scale(here, rest) if own_models else (),
      "sent": Counter.of(ledger.update_bytes(share) * (row >= 0)),
      "count": here,
      "stats": stats_policy.to_sums(stats, here, server.variables.get("batch_stats", {})),
      "metrics": metrics,
    }
    return sums, Partition(momentum, rest, stats if local_stats else ())

  def step(server: Shared, partitions: Partition, rows: Array, context: RoundContext):
    sums, partitions = setup.mapping.map_reduce(
      partition, (server, context), (rows, partitions), (False, SHARDED)
    )
    weights = optax.tree.add(server.weights, sums["share"])
    down = Counter.of(ledger.update_bytes(sums["share"])).times((rows >= 0).sum())
    rest = optax.tree.scale(1 / sums["count"], sums["rest"])
    variables = {
      **server.variables,
      "params": optax.tree.add(weights, rest) if own_models else weights,
    }
    if "batch_stats" in variables:
      variables["batch_stats"] = stats_policy.from_sums(
        sums["stats"], sums["count"], variables["batch_stats"]
      )
    sent = server.sent.add(sums["sent"], down, Counter.of(0))
    return Shared(weights, variables, sent), partitions, sums["metrics"]

  own_stats = (lambda server, own: with_stats(server, own, server.weights)) if local_stats else None
  return Algorithm(
    init=init,
    init_client=init_partition,
    round=step,
    local_steps=config.steps,
    # Parameters are counted as they are sent; running statistics go each step, if at all.
    cost=exchange_cost(setup.model, setup.image_shape, policy, (), ()),
    sent=lambda server: server.sent.traffic(),
    views=Views(
      client=own_variables if own_models else own_stats,
      global_too=own_models,
      travelling=own_variables,
      residual=lambda server, own: own.residual,
    ),
  )
