"""Asynchronous SGD with delay compensation (Zheng et al., ICML 2017, arXiv 1609.08326)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.contract import Algorithm, Method, Report, RoundContext, Setup
from fedjax_norm.algorithms.ledger import Cost, exchange_cost, model_shapes, without
from fedjax_norm.data.federated import draw
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig, make_gradient, optimizer
from fedjax_norm.options import option
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, PyTree, Variables

# The lambda_0 of Zheng et al. on CIFAR-10, and the m and epsilon of their mean square.
_LAMBDAS = {"none": 0.0, "constant": 0.04, "adaptive": 2.0}
_EPSILON = 1e-7

# The slowest worker's event lasts so many ticks: sums of two of them are still int32.
_TICKS = 2**30


@dataclasses.dataclass(frozen=True)
class AsgdConfig(LocalConfig):
  """What asynchronous SGD is told.

  The master's clipping, weight decay and momentum act on each gradient as it arrives, compensated.
  """

  group = "algorithm"

  delay_compensation: str = option(
    "none",
    "Correction of a late gradient g: g + lambda g g (w - w_bak), with a constant (DC-ASGD-c) or "
    "an adaptive lambda (DC-ASGD-a).",
    choices=tuple(_LAMBDAS),
  )
  delay_lambda: float | None = option(
    None,
    "lambda_0; by default 0.04 for constant and 2 for adaptive.",
    above=0,
    needs="delay_compensation=constant,adaptive",
  )
  delay_decay: float = option(
    0.95,
    "What the mean square of gradients keeps of its old value at each arrival.",
    least=0,
    below=1,
    needs="delay_compensation=adaptive",
  )

  def round_examples(self, clients: int) -> int:
    """The examples of an arrival, which is of one worker."""
    del clients
    return self.batch_size

  def check(self):
    """Refuses policies that combine several workers."""
    if self.batch_stats not in (None, "mean"):
      raise UserError(
        f"batch_stats={self.batch_stats} combines workers that are heard together, and asynchronous"
        " SGD hears one at a time; drop it."
      )


class Server(NamedTuple):
  """What the master holds, and what the simulation knows of its n workers.

  Attributes:
    variables: the weights w_t, and the running statistics.
    opt_state: of the master's SGD.
    mean_square: of the gradients, of the parameters' structure; () unless adaptive.
    pulled: [n, ...] each worker's stale copy of the variables (w_bak).
    versions: [n] int32, the master's updates when each worker pulled.
    steps: [n] int32, the steps that each worker has taken; together they are the master's updates.
    wait: [n] int32, ticks until each worker arrives.
    elapsed: [2] int32, whole multiples of 2^30 ticks and the ticks beyond them.
    staleness_max: int32, the greatest so far.
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
  """Asynchronous SGD; a round is one arrival.

  A worker m pulls the weights (w_bak), draws its next batch, computes its gradient g there and
  pushes it; by then the master has made a few more updates (their number is the staleness), and
  stands at w. The master makes a step of its SGD with

    g + lambda g * g * (w - w_bak)        (element by element; Alg. 2)

  and the worker pulls at once. ``constant``: lambda = lambda_0. ``adaptive``: lambda = lambda_0 /
  sqrt(s + 1e-7) with the master's mean square s <- m s + (1 - m) g * g.

  All workers pull at time 0. Worker m's events each last as long as the setup's clock says for its
  pull, step and push; whoever arrives first is next, of several the one of the lowest index. Time
  is counted in integer ticks, 2^30 to the longest event of the run, so that neither the order of
  events nor the time that has passed suffers from rounding, however long the run is.

  Running statistics: a worker's batches turn those that it pulled, p, into q = a p + b, where a is
  the norm's decay once for each part of the batch that moved them. The master does the same to its
  own, r <- a r + b = q + a (r - p). (To add q - p to them would feed old statistics back with a
  delay, which at a decay of 0.9 diverges from 17 equal workers on.)

  Raises:
    UserError: a norm that looks across nodes, or no clock.
  """
  model, spec = setup.model, setup.model.norm
  if spec.across_clients:
    raise UserError(
      f"norm {spec.name!r} merges the batches of all nodes, which asynchronous workers never have"
      " at the same time; choose another norm."
    )
  if setup.clock is None:
    raise UserError("asynchronous SGD runs on a simulated clock; give a network, such as lan.")
  variables = model_shapes(model, setup.image_shape)
  up = without(variables["params"], variables["params"], config.frozen_paths)
  cost = exchange_cost(model, setup.image_shape, "mean", up, variables["params"])
  # No phase of a run sends more than the whole model.
  whole = tree_leaves.num_bytes(variables)
  longest = float(setup.clock.event_seconds(Cost(whole, whole)).max())
  gradient = make_gradient(model, config)
  master = optimizer(config)
  event_seconds = setup.clock.event_seconds(cost)
  num_workers = len(event_seconds)
  ticks = np.maximum(np.rint(event_seconds / longest * _TICKS), 1).astype(np.int32)
  adaptive, decay = config.delay_compensation == "adaptive", config.delay_decay
  strength = config.delay_lambda or _LAMBDAS[config.delay_compensation]

  def init(variables: Variables) -> Server:
    params = variables["params"]
    zeros = jnp.zeros(num_workers, jnp.int32)
    return Server(
      variables,
      master.init(params),
      jax.tree.map(jnp.zeros_like, params) if adaptive else (),
      jax.tree.map(lambda a: jnp.repeat(a[None], num_workers, 0), variables),
      zeros,
      jnp.zeros_like(zeros),
      jnp.array(ticks),
      jnp.zeros(2, jnp.int32),
      jnp.int32(0),
    )

  def compensated(grads: PyTree, drift: PyTree, mean_square: PyTree) -> tuple[PyTree, PyTree]:
    if config.delay_compensation == "none":
      return grads, mean_square
    if not adaptive:
      return jax.tree.map(lambda g, d: g + strength * g * g * d, grads, drift), mean_square
    mean_square = jax.tree.map(lambda s, g: decay * s + (1 - decay) * g * g, mean_square, grads)

    def towards(g, d, s):
      return g + strength / jnp.sqrt(s + _EPSILON) * g * g * d

    return jax.tree.map(towards, grads, drift, mean_square), mean_square

  def event(server: Server, clients: PyTree, cohort: Array, context: RoundContext):
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
    grads, mean_square = compensated(grads, drift, server.mean_square)
    updates, opt_state = master.update(grads, server.opt_state, params)
    params = optax.apply_updates(params, optax.tree.scale(-context.rate, updates))
    variables = {**server.variables, "params": params}
    if spec.updates_running_statistics:
      moves = batch.mask.reshape(config.accumulate, -1).any(-1).sum()
      lag = optax.tree.sub(server.variables["batch_stats"], old)
      variables["batch_stats"] = optax.tree.add(new, optax.tree.scale(spec.decay**moves, lag))

    updates_before = server.steps.sum()
    staleness = updates_before - server.versions[worker]
    ahead = server.wait[worker]
    time = server.elapsed[1] + ahead
    server = Server(
      variables,
      opt_state,
      mean_square,
      jax.tree.map(lambda all_, one: all_.at[worker].set(one), server.pulled, variables),
      server.versions.at[worker].set(updates_before + 1),
      server.steps.at[worker].add(1),
      (server.wait - ahead).at[worker].set(jnp.asarray(ticks)[worker]),
      jnp.stack([server.elapsed[0] + time // _TICKS, time % _TICKS]),
      jnp.maximum(server.staleness_max, staleness),
    )
    return server, clients, metrics

  def columns(server: Server) -> dict[str, Array]:
    # A worker's staleness adds up to the updates until its last pull that were not its own.
    others = (server.versions - server.steps).astype(jnp.float32).sum()
    turns, rest = server.elapsed.astype(jnp.float32)
    return {
      "staleness_mean": others / jnp.maximum(server.steps.sum(), 1),
      "staleness_max": server.staleness_max,
      "simulated_seconds": longest * (turns + rest / _TICKS),
    }

  return Algorithm(
    init=init,
    init_client=lambda server: (),
    round=event,
    local_steps=lambda sizes: np.ones(1, np.int32),
    cost=cost,
    pace="events",
    report=Report(columns=columns),
  )


ASGD = Method(
  "asgd",
  AsgdConfig,
  asgd,
  "Asynchronous SGD on a simulated clock, with delay compensation (Zheng et al. 2017).",
  defaults={"momentum": 0.0, "network": "lan"},
  usual=(3000, 250),
  stepwise=True,
  all_clients=True,
  one_process=True,
  one_by_one=lambda config: True,
  without=("drift", "drift_stretches", "drift_rounds"),  # a round is one worker's
)
