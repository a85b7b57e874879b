"""Asynchronous SGD with delay compensation (Zheng et al., ICML 2017, arXiv 1609.08326)."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from fedjax_norm import trees
from fedjax_norm.algorithms.base import Algorithm, Context, round_cost
from fedjax_norm.data.federated import Transform, draw
from fedjax_norm.errors import UserError
from fedjax_norm.keys import Stream, stream
from fedjax_norm.local import LocalConfig, make_gradient, optimizer
from fedjax_norm.typing import Array, PyTree, Variables

COMPENSATIONS = ("none", "constant", "adaptive")

# Zheng et al.'s lambda_0 on CIFAR-10, and the m and epsilon of their mean square.
_LAMBDAS = {"constant": 0.04, "adaptive": 2.0}
_DECAY, _EPSILON = 0.95, 1e-7

# The slowest worker's event lasts so many ticks: sums of two of them are still int32.
_TICKS = 2**30


@dataclasses.dataclass(frozen=True)
class AsgdConfig:
  """What asynchronous SGD does; everything here is compiled in.

  Attributes:
    local: a worker's batch, and the master's SGD: clipping, weight decay and momentum act on each
      gradient as it arrives, compensated.
    delay_compensation: ``none``, ``constant`` (DC-ASGD-c) or ``adaptive`` (DC-ASGD-a).
    delay_lambda: lambda_0; None is the paper's on CIFAR-10, 0.04 constant and 2 adaptive.
    delay_decay: m, what the adaptive mean square keeps of its old value; None is 0.95.
    batch_stats: how running statistics are combined; only ``mean`` makes sense here.
  """

  local: LocalConfig = dataclasses.field(default_factory=LocalConfig)
  delay_compensation: str = "none"
  delay_lambda: float | None = None
  delay_decay: float | None = None
  batch_stats: str = "mean"

  def __post_init__(self):
    mode = self.delay_compensation
    if mode not in COMPENSATIONS:
      raise UserError(
        f"unknown delay_compensation {mode!r}; choose one of {', '.join(COMPENSATIONS)}."
      )
    if self.delay_lambda is not None:
      if mode == "none":
        raise UserError(
          "delay_lambda does nothing without compensation; set delay_compensation too."
        )
      if not 0 < self.delay_lambda < math.inf:
        raise UserError(f"delay_lambda is {self.delay_lambda}; it must be a number above 0.")
    if self.delay_decay is not None:
      if mode != "adaptive":
        raise UserError(
          "delay_decay is of the adaptive mean square; set delay_compensation=adaptive or drop it."
        )
      if not 0 <= self.delay_decay < 1:
        raise UserError(f"delay_decay is {self.delay_decay}; it must be from 0 to below 1.")
    if self.batch_stats != "mean":
      raise UserError(
        f"batch_stats={self.batch_stats} combines workers that are heard together, and asynchronous"
        " SGD hears one at a time; drop it."
      )
    if self.local.prox:
      raise UserError(
        "prox pulls a client back to where its round began, which a step of SGD never leaves; drop "
        "it."
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


def asgd(
  model: nn.Module,
  config: AsgdConfig,
  transform: Transform,
  image_shape: tuple[int, int, int],
  event_seconds: np.ndarray,
  longest: float | None = None,
) -> Algorithm:
  """Asynchronous SGD; a round is one arrival.

  A worker m pulls the weights (w_bak), draws its next batch, computes its gradient g there and
  pushes it; by then the master has made a few more updates (their number is the staleness), and
  stands at w. The master makes a step of its SGD with

    g + lambda g * g * (w - w_bak)        (element by element; Alg. 2)

  and the worker pulls at once. ``constant``: lambda = lambda_0. ``adaptive``: lambda = lambda_0 /
  sqrt(s + 1e-7) with the master's mean square s <- m s + (1 - m) g * g.

  All workers pull at time 0. Worker m's events each last ``event_seconds[m]``; whoever arrives
  first is next, of several the one of the lowest index. Time is counted in integer ticks, 2^30 to
  the longest event, so that neither the order of events nor the time that has passed suffers from
  rounding, however long the run is.

  Running statistics: a worker's batches turn those that it pulled, p, into q = a p + b, where a is
  the norm's decay once for each part of the batch that moved them. The master does the same to its
  own, r <- a r + b = q + a (r - p). (To add q - p to them would feed old statistics back with a
  delay, which at a decay of 0.9 diverges from 17 equal workers on.)

  Args:
    model: the model.
    config: what it does.
    transform: of the workers' images.
    image_shape: (H, W, C).
    event_seconds: [n] of each worker's pull, step and push, host (``Clock.event_seconds``).
    longest: the seconds of 2^30 ticks, at least those of each event and the same in all phases of a
      run; None is the longest event's.

  Raises:
    UserError: a norm that looks across nodes.
  """
  spec = model.norm
  if spec.across_nodes:
    raise UserError(
      f"norm {spec.name!r} merges the batches of all nodes, which asynchronous workers never have"
      " at the same time; choose another norm."
    )
  gradient = make_gradient(model, config.local)
  master = optimizer(config.local)
  num_workers, longest = len(event_seconds), float(longest or np.max(event_seconds))
  ticks = np.maximum(np.rint(np.asarray(event_seconds) / longest * _TICKS), 1).astype(np.int32)
  adaptive = config.delay_compensation == "adaptive"
  strength = config.delay_lambda or _LAMBDAS.get(config.delay_compensation, 0.0)
  decay = _DECAY if config.delay_decay is None else config.delay_decay

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

  def event(server: Server, clients: PyTree, cohort: Array, context: Context):
    worker = jnp.argmin(server.wait)
    row, step = cohort[worker], server.steps[worker]
    pulled = jax.tree.map(lambda a: a[worker], server.pulled)
    batch = draw(context.data, row, step, config.local.batch_size, transform, context.key)
    key = jax.random.fold_in(stream(context.key, Stream.DROPOUT), step)
    key = jax.random.fold_in(key, context.data.clients[row])
    old = pulled.get("batch_stats", {})
    grads, new, metrics = gradient(pulled["params"], old, batch, context.round, key)

    params = server.variables["params"]
    drift = trees.subtract(params, pulled["params"])
    grads, mean_square = compensated(grads, drift, server.mean_square)
    updates, opt_state = master.update(grads, server.opt_state, params)
    params = optax.apply_updates(params, trees.scale(updates, -context.rate))
    variables = {**server.variables, "params": params}
    if spec.updates_running_statistics:
      moves = batch.mask.reshape(config.local.accumulate, -1).any(-1).sum()
      lag = trees.subtract(server.variables["batch_stats"], old)
      variables["batch_stats"] = trees.add(new, trees.scale(lag, spec.decay**moves))

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
    variables=lambda server: server.variables,
    client_variables=None,
    local_steps=lambda sizes: np.ones(1, np.int32),
    cost=round_cost(model, image_shape, "mean", config.local.frozen_paths),
    columns=columns,
  )
