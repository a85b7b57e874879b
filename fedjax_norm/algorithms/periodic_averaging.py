"""FedAvg step by step (paper 004, Alg. 2): models are averaged every Iter_Local rounds.

A round of ``fedavg.py`` has all local steps of a client. Here a round is one step of every client,
so that Iter_Local can change between any two rounds without recompilation. If all clients take part
in every round, both files compute the same.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.algorithms.batch_statistics import check_policy, combiner
from fedjax_norm.algorithms.contract import Method, Setup, Theta
from fedjax_norm.algorithms.costs import ledger
from fedjax_norm.algorithms.costs.ledger import Counter, TrafficCounter
from fedjax_norm.algorithms.round_algorithm import SHARDED, Algorithm, RoundContext, Views
from fedjax_norm.algorithms.step_gradient import make_step_gradient
from fedjax_norm.local_training import LocalConfig, Metrics, optimizer
from fedjax_norm.options import option
from fedjax_norm.typing import Array, PyTree, Variables


@dataclasses.dataclass(frozen=True)
class PeriodicConfig(LocalConfig):
  """Options of FedAvg step by step."""

  group = "algorithm"

  local_steps: int = option(
    20,
    "Number of local steps between two averages of the models (Iter_Local; paper 004, Alg. 2).",
    least=1,
    needs="skewscout=off,measure",
  )
  client_momentum: str = option(
    "local",
    "Whether a client keeps its momentum when models are averaged (local; paper 004, Alg. 2) or "
    "sets it to zero (reset).",
    choices=("local", "reset"),
    needs="momentum",
  )


class ClientState(NamedTuple):
  """The state of client k.

  Attributes:
    momentum: u_k, as the state of the client's optimizer.
    variables: local model w_k with its running statistics.
  """

  momentum: PyTree
  variables: Variables


class ServerState(NamedTuple):
  """The server's state.

  Attributes:
    variables: mean of the clients' models.
    since: int32, steps since the clients last downloaded the mean.
    due: whether the clients download the mean before their next step.
    sent: traffic of the averages since the start of the run.
  """

  variables: Variables
  since: Array
  due: Array
  sent: TrafficCounter


def periodic(config: PeriodicConfig, setup: Setup) -> Algorithm:
  """Makes FedAvg of all clients; a round is one step of each client k:

    if Iter_Local steps have passed:  w_k <- mean of all w_k
    u_k <- m u_k - eta grad f(w_k, b);  w_k <- w_k + u_k

  m is the momentum, eta the learning rate, b a batch, and Iter_Local is ``RoundContext.theta``.
  The average comes before a step, so that between two rounds a client still has its local model,
  and the global model is the mean of the local models. The traffic of an average is charged to the
  step before. After FixBN freezes the running statistics, clients use the server's statistics from
  the first step on; this download is not charged.
  """
  spec, policy = setup.model.norm, config.statistics_policy(setup.model.norm)
  check_policy(policy, spec)
  local_stats, updates_stats = policy == "local", spec.updates_running_statistics
  gradient, sgd = make_step_gradient(config, setup), optimizer(config)
  stats_policy = combiner(("mean" if local_stats else policy) if updates_stats else "frozen")
  params = ledger.model_shapes(setup.model, setup.image_shape)["params"]
  up = ledger.without(params, params, config.frozen_paths)
  cost = ledger.exchange_cost(setup.model, setup.image_shape, policy, up, params)

  def init(variables: Variables) -> ServerState:
    return ServerState(variables, jnp.int32(0), jnp.bool(False), TrafficCounter.zeros())

  def client_step(shared: Any, item: Any) -> tuple[PyTree, ClientState]:
    (server, context), (row, client) = shared, item
    mean, momentum = server.variables, client.momentum
    start = optax.tree.where(server.due, mean, client.variables)
    if local_stats:
      start["batch_stats"] = client.variables["batch_stats"]
    elif not updates_stats and "batch_stats" in mean:
      start["batch_stats"] = mean["batch_stats"]
    if config.client_momentum == "reset":
      momentum = optax.tree.where(server.due, optax.tree.zeros_like(momentum), momentum)

    grads, stats, metrics = gradient(context, row, start)
    updates, momentum = sgd.update(grads, momentum, start["params"])
    params = optax.apply_updates(start["params"], optax.tree.scale(-context.rate, updates))
    present = (row >= 0).astype(jnp.float32)
    sums = {
      "params": optax.tree.scale(present, params),
      "count": present,
      "stats": stats_policy.to_sums(stats, present, mean.get("batch_stats", {})),
      "metrics": metrics,
    }
    new_stats = {"batch_stats": stats} if stats else {}
    return sums, ClientState(momentum, {**start, "params": params, **new_stats})

  def step(
    server: ServerState, clients: ClientState, rows: Array, context: RoundContext
  ) -> tuple[ServerState, ClientState, Metrics]:
    sums, clients = setup.mapping.map_reduce(
      client_step, (server, context), (rows, clients), (False, SHARDED)
    )
    variables = {**server.variables, "params": optax.tree.scale(1 / sums["count"], sums["params"])}
    variables = stats_policy.combine(variables, sums["stats"], sums["count"])
    since = jnp.where(server.due, 0, server.since) + 1
    due = since >= context.theta
    senders = due * (rows >= 0).sum()
    up, down = (Counter.of(count).times(senders) for count in (cost.up, cost.down))
    sent = server.sent.add(up, down, Counter.of(1).times(due))
    return ServerState(variables, since, due, sent), clients, sums["metrics"]

  def local_model(server: ServerState, client: ClientState) -> Variables:
    return client.variables

  return Algorithm(
    init=init,
    init_client=lambda server: ClientState(sgd.init(server.variables["params"]), server.variables),
    round=step,
    local_steps=config.steps,
    cost=cost._replace(up=0, down=0, trips=0),  # only the norms' exchanges within a step
    sent=lambda server: server.sent.traffic(),
    averages_next=lambda server: server.due,
    views=Views(client=local_model, evaluate_global=True, traveling=local_model),
  )


PERIODIC = Method(
  "periodic",
  PeriodicConfig,
  periodic,
  "FedAvg step by step, with a number of local steps that can change at any time (paper 004).",
  defaults={"lr": 0.01},
  stepwise=True,
  all_clients=True,
  one_process=True,
  theta=Theta(
    lambda config, rounds: np.full(rounds, config.local_steps, np.float32),
    grid=(5.0, 10.0, 20.0, 50.0, 200.0, 500.0, 1000.0),
    is_integer=True,
  ),
)
