"""Asynchronous SGD with delay compensation (Zheng et al., ICML 2017, arXiv 1609.08326)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.contract import Method, Setup
from fedjax_norm.algorithms.costs.ledger import Cost, exchange_cost, model_shapes, without
from fedjax_norm.algorithms.round_algorithm import Algorithm, Report, RoundContext
from fedjax_norm.data.federated import draw
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig, Metrics, make_gradient, optimizer
from fedjax_norm.options import option
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, PyTree, Variables

# lambda_0 of Zheng et al. on CIFAR-10, and the epsilon of their mean square.
_LAMBDAS = {"none": 0.0, "constant": 0.04, "adaptive": 2.0}
_EPSILON = 1e-7

# Number of ticks of the slowest worker's event: the sum of two such events is still an int32.
_TICKS = 2**30


@dataclasses.dataclass(frozen=True)
class AsgdConfig(LocalConfig):
  """Options of asynchronous SGD; delay compensation comes before clipping and weight decay."""

  group = "algorithm"

  delay_compensation: str = option(
    "none",
    "Delay compensation of a gradient g that a worker computed at old weights w_bak, for the "
    "server's weights w: g + lambda g g (w - w_bak), where lambda is constant (DC-ASGD-c) or "
    "divided by the root mean square of the gradients (adaptive, DC-ASGD-a). none: only g.",
    choices=tuple(_LAMBDAS),
  )
  delay_lambda: float | None = option(
    None,
    "Strength lambda_0 of the delay compensation. If unset: 0.04 for constant, 2 for adaptive.",
    above=0,
    needs="delay_compensation=constant,adaptive",
  )
  delay_decay: float = option(
    0.95,
    "Decay m of the running mean square s of the gradients, updated with each gradient g that "
    "arrives: s <- m s + (1 - m) g g.",
    least=0,
    below=1,
    needs="delay_compensation=adaptive",
  )

  def round_examples(self, clients: int) -> int:
    """Returns the number of examples of a round: the size of one worker's batch."""
    del clients
    return self.batch_size

  def check(self) -> None:
    """Raises UserError if ``batch_stats`` would combine the statistics of several workers."""
    if self.batch_stats not in (None, "mean"):
      raise UserError(
        f"--batch_stats={self.batch_stats} combines the statistics of several workers, but in "
        "asynchronous SGD one worker arrives at a time; drop --batch_stats."
      )


class ServerState(NamedTuple):
  """The state of the server and of n simulated workers.

  Attributes:
    variables: weights w and running statistics.
    opt_state: state of the server's SGD.
    mean_square: running mean square s of the gradients, with the structure of the parameters; ()
      unless ``delay_compensation`` is adaptive.
    pulled: [n, ...] variables that each worker pulled last; the weights among them are w_bak.
    versions: [n] int32, number of server updates when each worker pulled.
    steps: [n] int32, number of steps of each worker; their sum is the number of server updates.
    wait: [n] int32, ticks until each worker's gradient arrives.
    elapsed: [2] int32, simulated time since the start: multiples of 2^30 ticks, remaining ticks.
    staleness_max: int32, greatest staleness of a gradient so far.
  """

  variables: Variables
  opt_state: PyTree
  mean_square: PyTree
  pulled: Variables
  versions: Array
  steps: Array
  wait: Array
  elapsed: Array
  staleness_max: Array


def asgd(config: AsgdConfig, setup: Setup) -> Algorithm:
  """Makes asynchronous SGD with delay compensation (DC-ASGD); a round is one worker's arrival.

  A worker pulls the weights (w_bak), computes the gradient g of its next batch at these weights and
  pushes g. Until g arrives, the server has made a few updates (their number is the staleness of g)
  and has the weights w. The server takes a step of SGD with

    g + lambda g * g * (w - w_bak)        (element by element; Zheng et al. 2017, Alg. 2)

  and the worker pulls again immediately. With ``delay_compensation`` ``constant``, lambda is
  ``delay_lambda``; with ``adaptive``, it is ``delay_lambda / sqrt(s + 1e-7)`` with the mean square
  s <- m s + (1 - m) g * g on the server, where m is ``delay_decay``.

  All workers pull at time 0. The setup's clock gives the duration of each worker's event: pull,
  step and push. The worker that arrives first is next; if several arrive together, it is the one
  with the lowest index. Time is counted in integer ticks, 2^30 for the longest event of the run, so
  that rounding changes neither the order of events nor the elapsed time, however long the run is.

  Running statistics: a batch changes the statistics p that the worker pulled into q = a p + b. Here
  a is the norm's decay to the power of the number of parts of the batch (``accumulate``). With
  b = q - a p, the server changes its statistics r in the same way: r <- a r + b = q + a (r - p).
  (Adding the difference q - p to r would be wrong: it subtracts statistics that are out of date,
  which at a decay of 0.9 diverges for 17 or more workers of equal speed.)

  Raises UserError if the norm merges the clients' batches, or without a clock.
  """
  model, spec = setup.model, setup.model.norm
  if spec.across_clients:
    raise UserError(
      f"norm {spec.name!r} merges the batches of all clients, but asynchronous workers never "
      "compute at the same time; choose another norm."
    )
  if setup.clock is None:
    raise UserError("asynchronous SGD runs on a simulated clock; give a network: --network=lan.")
  variables = model_shapes(model, setup.image_shape)
  up = without(variables["params"], variables["params"], config.frozen_paths)
  cost = exchange_cost(model, setup.image_shape, "mean", up, variables["params"])
  # A tick is the same time before and after FixBN freezes: no event sends more than the model.
  model_bytes = tree_leaves.num_bytes(variables)
  longest = float(setup.clock.event_seconds(Cost(model_bytes, model_bytes)).max())
  gradient = make_gradient(model, config)
  server_optimizer = optimizer(config)
  event_seconds = setup.clock.event_seconds(cost)
  num_workers = len(event_seconds)
  ticks = np.maximum(np.rint(event_seconds / longest * _TICKS), 1).astype(np.int32)
  adaptive, decay = config.delay_compensation == "adaptive", config.delay_decay
  strength = config.delay_lambda or _LAMBDAS[config.delay_compensation]

  def init(variables: Variables) -> ServerState:
    params = variables["params"]
    zeros = jnp.zeros(num_workers, jnp.int32)
    return ServerState(
      variables,
      server_optimizer.init(params),
      optax.tree.zeros_like(params) if adaptive else (),
      jax.tree.map(lambda a: jnp.repeat(a[None], num_workers, 0), variables),
      zeros,
      jnp.zeros_like(zeros),
      jnp.array(ticks),
      jnp.zeros(2, jnp.int32),
      jnp.int32(0),
    )

  def compensate(grads: PyTree, drift: PyTree, mean_square: PyTree) -> tuple[PyTree, PyTree]:
    """Returns (compensated gradient, new mean square); ``drift`` is w - w_bak."""
    if config.delay_compensation == "none":
      return grads, mean_square
    if not adaptive:
      return jax.tree.map(lambda g, d: g + strength * g * g * d, grads, drift), mean_square
    mean_square = jax.tree.map(lambda s, g: decay * s + (1 - decay) * g * g, mean_square, grads)
    grads = jax.tree.map(
      lambda g, d, s: g + strength / jnp.sqrt(s + _EPSILON) * g * g * d, grads, drift, mean_square
    )
    return grads, mean_square

  def arrival(
    server: ServerState, clients: PyTree, cohort: Array, context: RoundContext
  ) -> tuple[ServerState, PyTree, Metrics]:
    worker = jnp.argmin(server.wait)
    row, step = cohort[worker], server.steps[worker]
    pulled = jax.tree.map(lambda a: a[worker], server.pulled)
    batch = draw(context.data, row, step, config.batch_size, setup.transform, context.key)
    key = jax.random.fold_in(stream(context.key, Stream.DROPOUT), step)
    key = jax.random.fold_in(key, context.data.clients[row])
    old = pulled.get("batch_stats", {})
    grads, new, metrics = gradient(pulled["params"], old, batch, context.round, key)

    params = server.variables["params"]
    drift = optax.tree.sub(params, pulled["params"])
    grads, mean_square = compensate(grads, drift, server.mean_square)
    updates, opt_state = server_optimizer.update(grads, server.opt_state, params)
    params = optax.apply_updates(params, optax.tree.scale(-context.rate, updates))
    variables = {**server.variables, "params": params}
    if spec.updates_running_statistics:
      parts = batch.mask.reshape(config.accumulate, -1).any(-1).sum()
      lag = optax.tree.sub(server.variables["batch_stats"], old)
      variables["batch_stats"] = optax.tree.add(new, optax.tree.scale(spec.decay**parts, lag))

    updates_before = server.steps.sum()
    staleness = updates_before - server.versions[worker]
    waited = server.wait[worker]
    time = server.elapsed[1] + waited
    server = ServerState(
      variables,
      opt_state,
      mean_square,
      jax.tree.map(lambda all_, one: all_.at[worker].set(one), server.pulled, variables),
      server.versions.at[worker].set(updates_before + 1),
      server.steps.at[worker].add(1),
      (server.wait - waited).at[worker].set(jnp.asarray(ticks)[worker]),
      jnp.stack([server.elapsed[0] + time // _TICKS, time % _TICKS]),
      jnp.maximum(server.staleness_max, staleness),
    )
    return server, clients, metrics

  def columns(server: ServerState) -> dict[str, Array]:
    # A worker's total staleness is the number of other workers' updates before its last pull.
    staleness = (server.versions - server.steps).astype(jnp.float32).sum()
    multiples, rest = server.elapsed.astype(jnp.float32)
    return {
      "staleness_mean": staleness / jnp.maximum(server.steps.sum(), 1),
      "staleness_max": server.staleness_max,
      "simulated_seconds": longest * (multiples + rest / _TICKS),
    }

  return Algorithm(
    init=init,
    init_client=lambda server: (),
    round=arrival,
    local_steps=lambda sizes: np.ones(1, np.int32),
    cost=cost,
    pace="asynchronous",
    report=Report(columns=columns),
  )


ASGD = Method(
  "asgd",
  AsgdConfig,
  asgd,
  "Asynchronous SGD on a simulated clock, with delay compensation (Zheng et al. 2017).",
  defaults={"momentum": 0.0, "network": "lan"},
  default_lengths=(3000, 250),
  stepwise=True,
  all_clients=True,
  one_process=True,
  sequential=lambda config: True,
  # Drift changes the data by rounds in which all clients take part; here a round is one arrival.
  hidden_options=("drift", "drift_stretches", "drift_rounds", "drift_keeps"),
)
