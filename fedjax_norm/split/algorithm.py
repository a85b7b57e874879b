"""Split learning (paper 003, Alg. 1 to 3, sec. 3.6), and SplitFed, whose client parts average."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from fedjax_norm.algorithms.contract import (
  HELD,
  Algorithm,
  Method,
  Report,
  RoundContext,
  Setup,
  Views,
)
from fedjax_norm.algorithms.ledger import Cost, Sent
from fedjax_norm.data.federated import FederatedData, draw
from fedjax_norm.local import Metrics
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.costs.counters import Tally
from fedjax_norm.split.parties import Part
from fedjax_norm.split.rules import Rules, make_rules
from fedjax_norm.split.state import ClientState, SplitState
from fedjax_norm.split.step import carry, step
from fedjax_norm.typing import Array, Key


def split(rules: Rules, config: SplitConfig, setup: Setup) -> Algorithm:
  """Split learning; a round is one turn of every client of the cohort.

    for each Alice_j in turn:
      F_a,j <- F_a,o of the last Alice_o
      for each of her steps:  X <- F_a,j(data);  Bob: F_b', gradient' <- F_b^T(G'(F_b(X), label))
                              F_a,j' <- F_a,j^T(gradient')

  all of it in one program, in which messages are values. In SplitFed parts of a round's start are
  averaged at its end, weighted by the clients' examples; v1 runs the clients side by side.

  Args:
    rules: what each party does (see ``make_rules``).
    config: the options.
    setup: what it is built for; its mapping is that of ``splitfed_v1``.
  """
  batch_size = config.batch_size

  def turn(parts: tuple[Part, ...], row: Array, context: RoundContext):
    steps = config.steps(context.data.sizes[row])
    key = turn_key(context, row)

    def body(index, state):
      parts, metrics, tally, _ = state
      place = context.round * steps + index
      batch = draw(context.data, row, place, batch_size, setup.transform, context.key)
      done = step(
        rules.plan,
        rules.parties,
        rules.loss_gradient,
        rules.autoencoder,
        carry,
        parts,
        batch,
        place / steps,
        jax.random.fold_in(key, index),
        context.rate,
      )
      tally = tally.add(rules.step_tally(done.examples, done.exchanged))
      return done.parts, optax.tree.add(metrics, done.metrics), tally, done.reconstruction

    start = (parts, Metrics.zeros(), Tally.zeros(), jnp.float32(0))
    return jax.lax.fori_loop(0, steps, body, start)

  def node(state: SplitState, client: ClientState, row: Array, context: RoundContext):
    parts, metrics, tally, reconstruction = turn(rules.begin(state, client), row, context)
    state, client, sums = rules.end(state, client, row, context, parts, tally, reconstruction)
    return state, client, {"metrics": metrics, **sums}

  def in_turns(state: SplitState, clients: ClientState, cohort: Array, context: RoundContext):
    order = rules.order(context, len(cohort))

    def body(index, carried):
      state, clients, total = carried
      place = order[index]
      client = jax.tree.map(lambda a: a[place], clients)
      state, client, sums = node(state, client, cohort[place], context)
      clients = jax.tree.map(lambda a, b: a.at[place].set(b), clients, client)
      return state, clients, optax.tree.add(total, sums)

    first = jax.tree.map(lambda a: a[0], clients)
    shapes = jax.eval_shape(node, state, first, cohort[0], context)[2]
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.fori_loop(0, len(cohort), body, (state, clients, zeros))

  def side_by_side(state: SplitState, clients: ClientState, cohort: Array, context: RoundContext):
    def one(shared, item):
      (state, context), (row, client) = shared, item
      _, client, sums = node(state, client, row, context)
      return jax.tree.map(lambda a: jnp.where(row >= 0, a, 0), sums), client

    sums, clients = setup.nodes.map_reduce(one, (state, context), (cohort, clients), (False, HELD))
    return state, clients, sums

  def round_(state: SplitState, clients: ClientState, cohort: Array, context: RoundContext):
    run = in_turns if config.in_turns else side_by_side
    state, clients, sums = run(state, clients, cohort, context)
    return rules.close(state, sums), clients, sums["metrics"]

  # Clients that average do so at once; those side by side wait for the one with the most steps.
  links = 0 if config.in_turns else len(rules.plan.segments) - 1
  trips = 0 if config.variant == "split" else 1
  return Algorithm(
    init=rules.init,
    init_client=rules.init_client,
    round=round_,
    local_steps=config.steps,
    cost=Cost(0, 0, step_trips=links, trips=trips),
    sent=lambda state: Sent(state.tally.up, state.tally.down, state.tally.trips).traffic(),
    pass_cost=rules.pass_cost,
    pace="turns" if config.in_turns else "apart",
    views=Views(client=rules.client_variables),
    report=Report(rules.columns, rules.client_rows, rules.summary),
  )


def turn_key(context: RoundContext, row: Array) -> Array:
  """What the dropout of a client's turn derives from."""
  return key_of_turn(context.key, context.round, context.data.clients[row])


def key_of_turn(key: Key, round: Array | int, client: Array | int) -> Key:
  """The same, from the run's key, for a party that has no table of clients."""
  key = jax.random.fold_in(stream(key, Stream.DROPOUT), round)
  return jax.random.fold_in(key, client)


def rules_of(
  model: nn.Module,
  config: SplitConfig,
  images: jax.ShapeDtypeStruct,
  data: FederatedData,
  seed: int,
) -> Rules:
  """The rules of split learning on a federation's data (see ``make_rules``)."""
  label = jax.ShapeDtypeStruct(data.targets.shape[1:], data.targets.dtype)
  return make_rules(model, config, images, label, seed)


def _of_setup(config: SplitConfig, setup: Setup) -> Rules:
  return rules_of(setup.model, config, setup.images, setup.data, setup.seed)


def _step_flops(config: SplitConfig, setup: Setup) -> float:
  effort = _of_setup(config, setup).effort()
  return config.batch_size * (effort.client + effort.client_crossing)


SPLIT = Method(
  "split",
  SplitConfig,
  lambda config, setup: split(_of_setup(config, setup), config, setup),
  "Split learning: clients take turns with the first stages of the model (paper 003).",
  one_process=True,
  one_by_one=lambda config: config.in_turns,
  # A batch crosses the cut as a whole, and no client has the whole model to train it further.
  without=("accumulate", "fine_tune_steps", "fine_tune_lr"),
  step_flops=_step_flops,
)
SPLITFED_V1 = dataclasses.replace(
  SPLIT,
  name="splitfed_v1",
  help="SplitFed v1: clients side by side, and both parts of the model averaged after a round.",
  defaults={"variant": "splitfed_v1"},
)
SPLITFED_V2 = dataclasses.replace(
  SPLIT,
  name="splitfed_v2",
  help="SplitFed v2: clients in turns, and the client parts averaged after a round.",
  defaults={"variant": "splitfed_v2"},
)
