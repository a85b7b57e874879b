"""FedAvg step by step (paper 004, Alg. 2): models are averaged every so many steps.

``fedavg.py`` has a round in which each client takes its local steps. Here a round is one step of
every partition, so that Iter_Local is data and may change between any two rounds; with all clients
in every round the two are the same algorithm.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.algorithms.batch_statistics import check_policy, combiner
from fedjax_norm.algorithms.contract import (
  SHARDED,
  Algorithm,
  Method,
  RoundContext,
  Setup,
  Theta,
  Views,
)
from fedjax_norm.algorithms.ledger import Counter, Sent, exchange_cost, model_shapes, without
from fedjax_norm.algorithms.step_gradient import make_step_gradient
from fedjax_norm.local_training import LocalConfig, optimizer
from fedjax_norm.options import option
from fedjax_norm.typing import Array, PyTree, Variables


@dataclasses.dataclass(frozen=True)
class PeriodicConfig(LocalConfig):
  """What periodic averaging is told."""

  group = "algorithm"

  local_steps: int = option(
    20, "Iter_Local: steps between two averages.", least=1, needs="skewscout=off,measure"
  )
  client_momentum: str = option(
    "local",
    "Whether a partition keeps its momentum over an average (local; paper 004, Alg. 2) or starts "
    "anew (reset).",
    choices=("local", "reset"),
    needs="momentum",
  )


class Partition(NamedTuple):
  """What a partition k holds.

  Attributes:
    momentum: u_k, as its optimizer's state.
    variables: its model w_k, with its running statistics.
  """

  momentum: PyTree
  variables: Variables


class Average(NamedTuple):
  """What the server knows.

  Attributes:
    variables: the mean of the partitions' models.
    since: int32, steps since the partitions last took it over.
    due: whether they take it over before their next step.
    sent: the traffic since the start.
  """

  variables: Variables
  since: Array
  due: Array
  sent: Sent


def periodic(config: PeriodicConfig, setup: Setup) -> Algorithm:
  """FedAvg of all partitions; a round is one step of each:

    if Iter_Local steps have passed:  w_k <- mean of all w_k
    u_k <- m u_k - eta grad f(w_k, b);  w_k <- w_k + u_k

  The average comes before a step, so that between two rounds a partition still has its local model,
  and the mean of those is the global one. ``RoundContext.theta`` is Iter_Local. An average is
  charged to the last of its steps. Where running statistics no longer move (FixBN's second stage),
  partitions have the server's from the first step on, for which nothing is charged.
  """
  spec, policy = setup.model.norm, config.statistics_policy(setup.model.norm)
  check_policy(policy, spec)
  local_stats, moving = policy == "local", spec.updates_running_statistics
  gradient, sgd = make_step_gradient(config, setup), optimizer(config)
  stats_policy = combiner(("mean" if local_stats else policy) if moving else "frozen")
  params = model_shapes(setup.model, setup.image_shape)["params"]
  up = without(params, params, config.frozen_paths)
  cost = exchange_cost(setup.model, setup.image_shape, policy, up, params)

  def init(variables: Variables) -> Average:
    return Average(variables, jnp.int32(0), jnp.bool(False), Sent.zeros())

  def init_partition(server: Average) -> Partition:
    return Partition(sgd.init(server.variables["params"]), server.variables)

  def partition(shared, item):
    (server, context), (row, own) = shared, item
    average, variables, momentum = server.variables, own.variables, own.momentum
    taken = optax.tree.where(server.due, average, variables)
    if local_stats:
      taken["batch_stats"] = variables["batch_stats"]
    elif not moving and "batch_stats" in average:
      taken["batch_stats"] = average["batch_stats"]
    if config.client_momentum == "reset":
      momentum = optax.tree.where(server.due, jax.tree.map(jnp.zeros_like, momentum), momentum)

    grads, stats, metrics = gradient(context, row, taken)
    updates, momentum = sgd.update(grads, momentum, taken["params"])
    params = optax.apply_updates(taken["params"], optax.tree.scale(-context.rate, updates))
    here = (row >= 0).astype(jnp.float32)
    sums = {
      "params": optax.tree.scale(here, params),
      "count": here,
      "stats": stats_policy.to_sums(stats, here, average.get("batch_stats", {})),
      "metrics": metrics,
    }
    return sums, Partition(momentum, {**taken, "params": params, **_stats(stats)})

  def step(server: Average, partitions: Partition, rows: Array, context: RoundContext):
    sums, partitions = setup.mapping.map_reduce(
      partition, (server, context), (rows, partitions), (False, SHARDED)
    )
    variables = {**server.variables, "params": optax.tree.scale(1 / sums["count"], sums["params"])}
    if "batch_stats" in variables:
      variables["batch_stats"] = stats_policy.from_sums(
        sums["stats"], sums["count"], variables["batch_stats"]
      )
    since = jnp.where(server.due, 0, server.since) + 1
    due = since >= context.theta
    times = due * (rows >= 0).sum()
    sent = server.sent.add(
      Counter.of(cost.up).times(times), Counter.of(cost.down).times(times), Counter.of(1).times(due)
    )
    return Average(variables, since, due, sent), partitions, sums["metrics"]

  def own_variables(server: Average, own: Partition) -> Variables:
    return own.variables

  return Algorithm(
    init=init,
    init_client=init_partition,
    round=step,
    local_steps=config.steps,
    cost=cost._replace(up=0, down=0, trips=0),  # what is left are the norms' messages in a step
    sent=lambda server: server.sent.traffic(),
    averages_next=lambda server: server.due,
    views=Views(client=own_variables, global_too=True, travelling=own_variables),
  )


def _stats(stats: PyTree) -> Variables:
  return {"batch_stats": stats} if stats else {}


PERIODIC = Method(
  "periodic",
  PeriodicConfig,
  periodic,
  "FedAvg step by step, whose number of local steps may change at any time (paper 004).",
  defaults={"lr": 0.01},
  stepwise=True,
  all_clients=True,
  one_process=True,
  theta=Theta(
    lambda config, rounds: np.full(rounds, config.local_steps, np.float32),
    grid=(5.0, 10.0, 20.0, 50.0, 200.0, 500.0, 1000.0),
    whole=True,
  ),
)
