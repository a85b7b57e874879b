"""Split learning (paper 003, Alg. 1 to 3, sec. 3.6) and SplitFed as one compiled program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from fedjax_norm.algorithms.contract import Method, Setup
from fedjax_norm.algorithms.costs.ledger import Cost, TrafficCounter
from fedjax_norm.algorithms.round_algorithm import SHARDED, Algorithm, Report, RoundContext, Views
from fedjax_norm.data.federated import FederatedData, draw
from fedjax_norm.local_training import Metrics
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.parties import Part
from fedjax_norm.split.rules import Rules, make_rules
from fedjax_norm.split.state import ClientState, ServerState
from fedjax_norm.split.step import deliver, step
from fedjax_norm.split.tally import Tally
from fedjax_norm.typing import Array, Key, PyTree

Round = tuple[ServerState, ClientState, PyTree]
"""(server state, states of one client or of the cohort, values summed over their turns)."""

Turn = tuple[tuple[Part, ...], Metrics, Tally, Array]
"""The results of a client's turn: (parts of the model with optimizer states, sums of the metrics,
counts of bytes and examples, autoencoder loss of the last step)."""


def split(rules: Rules, config: SplitConfig, setup: Setup) -> Algorithm:
  """Returns split learning or SplitFed; in a round every client of the cohort has one turn.

  A turn is the client's local steps. F_a is the client's part of the model, F_b the server's part;
  F^T is a backward pass with an optimizer step, and G' the gradient of the loss:

    for each client j of the cohort:
      F_a,j <- F_a,o of the previous client o
      for each local step:  client:  X <- F_a,j(data)
                            server:  F_b', gradient' <- F_b^T(G'(F_b(X), label))
                            client:  F_a,j' <- F_a,j^T(gradient')

  SplitFed averages model parts at the end of a round, weighted by the clients' numbers of examples;
  SplitFed v1 trains the clients in parallel.

  Args:
    rules: functions of client and server (see ``make_rules``).
    config: the options of split learning.
    setup: model, data and client mapping; only ``splitfed_v1`` uses the mapping.
  """
  one_step = functools.partial(
    step, rules.plan, rules.parties, rules.loss_gradient, rules.autoencoder, deliver
  )

  def turn(parts: tuple[Part, ...], row: Array, context: RoundContext) -> Turn:
    steps = jnp.where(row >= 0, config.steps(context.data.sizes[row]), 0)
    key = turn_key(context.key, context.round, context.data.clients[row])

    def body(index: Array, carry: Turn) -> Turn:
      parts, metrics, tally, _ = carry
      step_index = context.round * steps + index
      batch = draw(context.data, row, step_index, config.batch_size, setup.transform, context.key)
      dropout = jax.random.fold_in(key, index)
      result = one_step(parts, batch, step_index / steps, dropout, context.rate)
      tally = tally.add(rules.step_tally(result.examples, result.exchanged))
      return result.parts, optax.tree.add(metrics, result.metrics), tally, result.reconstruction

    start = (parts, Metrics.zeros(), Tally.zeros(), jnp.float32(0))
    return jax.lax.fori_loop(0, steps, body, start)

  def train(state: ServerState, client: ClientState, row: Array, context: RoundContext) -> Round:
    parts, metrics, tally, reconstruction = turn(rules.begin(state, client), row, context)
    state, client, sums = rules.end(state, client, row, context, parts, tally, reconstruction)
    return state, client, {"metrics": metrics, **sums}

  def sequential(
    state: ServerState, clients: ClientState, cohort: Array, context: RoundContext
  ) -> Round:
    order = rules.order(context, len(cohort))

    def body(index: Array, carry: Round) -> Round:
      state, clients, total = carry
      position = order[index]
      client = jax.tree.map(lambda a: a[position], clients)
      state, client, sums = train(state, client, cohort[position], context)
      clients = jax.tree.map(lambda a, b: a.at[position].set(b), clients, client)
      return state, clients, optax.tree.add(total, sums)

    first = jax.tree.map(lambda a: a[0], clients)
    shapes = jax.eval_shape(train, state, first, cohort[0], context)[2]
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.fori_loop(0, len(cohort), body, (state, clients, zeros))

  def parallel(
    state: ServerState, clients: ClientState, cohort: Array, context: RoundContext
  ) -> Round:
    def one(
      shared: tuple[ServerState, RoundContext], item: tuple[Array, ClientState]
    ) -> tuple[PyTree, ClientState]:
      (state, context), (row, client) = shared, item
      _, client, sums = train(state, client, row, context)
      return jax.tree.map(lambda a: jnp.where(row >= 0, a, 0), sums), client

    sharded = (False, SHARDED)
    sums, clients = setup.mapping.map_reduce(one, (state, context), (cohort, clients), sharded)
    return state, clients, sums

  def round_(
    state: ServerState, clients: ClientState, cohort: Array, context: RoundContext
  ) -> tuple[ServerState, ClientState, Metrics]:
    run = sequential if config.in_turns else parallel
    state, clients, sums = run(state, clients, cohort, context)
    return rules.close(state, sums), clients, sums["metrics"]

  # SplitFed sends all averaged parts in one round trip. Parallel clients wait for the client with
  # the most steps, so a step's round trips are charged here; the tally counts sequential ones.
  links = 0 if config.in_turns else len(rules.plan.segments) - 1
  trips = 0 if config.variant == "split" else 1
  return Algorithm(
    init=rules.init,
    init_client=rules.init_client,
    round=round_,
    local_steps=config.steps,
    cost=Cost(0, 0, step_trips=links, trips=trips),
    sent=lambda s: TrafficCounter(s.tally.up, s.tally.down, s.tally.trips).traffic(),
    pass_cost=rules.pass_cost,
    pace="sequential" if config.in_turns else "independent",
    views=Views(client=rules.client_variables),
    report=Report(rules.columns, rules.client_rows, rules.summary),
  )


def turn_key(key: Key, round: Array | int, client: Array | int) -> Key:
  """Returns the dropout key of a client's turn from the run's key, the round and the client id."""
  return jax.random.fold_in(jax.random.fold_in(stream(key, Stream.DROPOUT), round), client)


def rules_for_data(
  model: nn.Module,
  config: SplitConfig,
  images: jax.ShapeDtypeStruct,
  data: FederatedData,
  seed: int,
) -> Rules:
  """Returns the functions of split learning (see ``make_rules``) for a federated data set."""
  label = jax.ShapeDtypeStruct(data.targets.shape[1:], data.targets.dtype)
  return make_rules(model, config, images, label, seed)


def _rules(config: SplitConfig, setup: Setup) -> Rules:
  return rules_for_data(setup.model, config, setup.images, setup.data, setup.seed)


def _step_flops(config: SplitConfig, setup: Setup) -> float:
  flops = _rules(config, setup).flops()
  return config.batch_size * (flops.client + flops.client_crossing)


SPLIT = Method(
  "split",
  SplitConfig,
  lambda config, setup: split(_rules(config, setup), config, setup),
  "Split learning (paper 003): clients take turns to train the first stages of the model.",
  one_process=True,
  sequential=lambda config: config.in_turns,
  # A batch crosses the cut as a whole, and no client has the whole model to fine-tune it.
  hidden_options=("accumulate", "fine_tune_steps", "fine_tune_lr"),
  step_flops=_step_flops,
)
SPLITFED_V1 = dataclasses.replace(
  SPLIT,
  name="splitfed_v1",
  help="SplitFed v1: clients train in parallel; client and server parts are averaged.",
  defaults={"variant": "splitfed_v1"},
)
SPLITFED_V2 = dataclasses.replace(
  SPLIT,
  name="splitfed_v2",
  help="SplitFed v2: clients take turns; only the client parts are averaged after a round.",
  defaults={"variant": "splitfed_v2"},
)
