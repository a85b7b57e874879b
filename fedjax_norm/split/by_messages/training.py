"""Split training in which each party is compiled separately and every message is an object.

It computes what ``split/algorithm.py`` computes in one program, as a real deployment would: tests
can read all messages, and the wire runs the same compiled functions.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.algorithms.algorithm import RoundContext
from fedjax_norm.data.federated import FederatedData, Transform, draw
from fedjax_norm.local_training import Metrics
from fedjax_norm.split import weight_delta
from fedjax_norm.split.algorithm import Turn, turn_key
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.messages import HAND_OVER, LABELS, MODEL, OUTPUT, SEED, Message, padded, rows
from fedjax_norm.split.parties import Part, Party
from fedjax_norm.split.plan import ALICE, BOB, Plan
from fedjax_norm.split.rules import Rules
from fedjax_norm.split.state import ClientState, ServerState, hand_over_state
from fedjax_norm.split.step import Send, step
from fedjax_norm.split.tally import Tally
from fedjax_norm.typing import Array, Batch, Key, PyTree

Observe = Callable[[Message], None]
"""Callback that receives every message."""

AVERAGER = "averager"
"""The party that averages the client parts of SplitFed (the fed server of Thapa et al. 2022)."""


def compile_parties(rules: Rules) -> Rules:
  """Returns the rules with each function compiled separately."""
  autoencoder = rules.autoencoder
  if autoencoder:
    names = ("decode", "choose", "combine")
    autoencoder = autoencoder._replace(**{n: jax.jit(getattr(autoencoder, n)) for n in names})
  parties = tuple(
    Party(party.init, jax.jit(party.forward), jax.jit(party.backward)) for party in rules.parties
  )
  return rules._replace(
    parties=parties,
    autoencoder=autoencoder,
    loss_gradient=jax.jit(rules.loss_gradient),
    begin=jax.jit(rules.begin),
    end=jax.jit(rules.end),
    close=jax.jit(rules.close),
  )


def make_send(plan: Plan, client: str, batch_size: int, observe: Observe) -> Send:
  """Returns a ``Send`` that sends only rows of real examples and pads them at the receiver.

  Relays forward labels to the server, and outputs to their reader: the client, or the server in
  the U-shape, in which the client computes the outputs.

  Args:
    plan: the segments.
    client: name of the party in the client's role.
    batch_size: rows after padding.
    observe: callback for every message.
  """
  names = [client if segment.owner == ALICE else segment.owner for segment in plan.segments]
  readers = {LABELS: BOB, OUTPUT: BOB if plan.u_shaped else client}

  def send(kind: str, sender: int, receiver: int, tensors: PyTree, count: Array) -> PyTree:
    num_rows = int(count)
    if not num_rows:
      return jax.tree.map(jnp.zeros_like, tensors)
    reader = readers.get(kind, names[receiver])
    final_reader = None if reader == names[receiver] else reader
    message = Message(kind, names[sender], names[receiver], rows(tensors, num_rows), final_reader)
    observe(message)
    return jax.tree.map(jnp.asarray, padded(message.tensors, batch_size))

  return send


def make_interval(
  rules: Rules,
  config: SplitConfig,
  transform: Transform,
  seed: int,
  start: Callable[[int], ServerState],
  observe: Observe,
) -> Callable[..., Any]:
  """Returns a function like that of ``training.rounds.compile_interval``, but with messages.

  Args:
    rules: functions of the parties.
    config: the options.
    transform: transform of the clients' images.
    seed: seed of the run.
    start: seed -> initial server state, which updates are relative to.
    observe: callback for every message.
  """
  rules = compile_parties(rules)
  batch_size = config.batch_size
  one_step = functools.partial(
    step, rules.plan, rules.parties, rules.loss_gradient, rules.autoencoder
  )

  @functools.cache
  def initial_parts(seed: int) -> tuple[Part, ...]:
    state = start(seed)
    return rules.begin(state, rules.init_client(state))

  @jax.jit
  def draw_batch(data: FederatedData, row: Array, step_index: Array, key: Key) -> Batch:
    return draw(data, row, step_index, batch_size, transform, key)

  def turn(parts: tuple[Part, ...], row: int, client_id: int, context: RoundContext) -> Turn:
    steps = int(rules.steps(context.data.sizes[row]))
    key = turn_key(context.key, context.round, context.data.clients[row])
    send = make_send(rules.plan, f"{ALICE}{client_id}", batch_size, observe)
    metrics, tally, reconstruction = Metrics.zeros(), Tally.zeros(), jnp.float32(0)
    for index in range(steps):
      step_index = np.int32(int(context.round) * steps + index)
      batch = draw_batch(context.data, row, step_index, context.key)
      time = np.float32(step_index / np.int32(steps))
      dropout = jax.random.fold_in(key, index)
      result = one_step(send, parts, batch, time, dropout, context.rate)
      parts, metrics = result.parts, optax.tree.add(metrics, result.metrics)
      tally = tally.add(rules.step_tally(result.examples, result.exchanged))
      reconstruction = result.reconstruction
    return parts, metrics, tally, reconstruction

  def receive_parts(
    state: ServerState, client: ClientState, parts: tuple[Part, ...], client_id: int
  ) -> tuple[Part, ...]:
    """Sends the messages that bring the parts to a client; returns the parts as they arrive."""
    last, name = int(state.last), f"{ALICE}{client_id}"
    if config.variant != "split":
      return _hand_over(parts, rules, config, [AVERAGER, name], MODEL, observe)
    if last in (-1, client_id):
      return parts
    path = [f"{ALICE}{last}", *([BOB] if config.hand_over == "centralised" else []), name]
    if config.handed_over != "updates":
      return _hand_over(parts, rules, config, path, HAND_OVER, observe)
    received_seed = seed  # a client receives the seed before its first turn only
    if int(client.turns) == 0:
      seed_path = [f"{ALICE}{int(state.starter)}", *path[1:]]
      received_seed = int(send_along(seed_path, SEED, np.uint64(seed), observe))
    initial = initial_parts(seed), initial_parts(received_seed)
    return _hand_over(parts, rules, config, path, HAND_OVER, observe, initial)

  def interval(
    state: ServerState,
    clients: ClientState,
    metrics: Metrics,
    slots: Array,
    rates: Array,
    thetas: Array,
    first: int,
    begin: int,
    end: int,
    data: FederatedData,
    key: Key,
  ) -> tuple[ServerState, ClientState, Metrics]:
    slots = np.asarray(slots)
    for index in range(int(begin), int(end)):
      context = RoundContext(data, np.int32(first + index), rates[index], key, thetas[index])
      total: PyTree = None
      for position in np.asarray(rules.order(context, len(slots[index]))):
        row = int(slots[index][position])
        client_id = int(data.clients[row])
        client = jax.tree.map(lambda a, row=row: a[row], clients)
        parts = receive_parts(state, client, rules.begin(state, client), client_id)
        parts, turn_metrics, tally, reconstruction = turn(parts, row, client_id, context)
        if config.variant != "split":
          _hand_over(parts, rules, config, [f"{ALICE}{client_id}", AVERAGER], MODEL, observe)
        state, client, sums = rules.end(state, client, row, context, parts, tally, reconstruction)
        clients = jax.tree.map(lambda a, b, row=row: a.at[row].set(b), clients, client)
        metrics = optax.tree.add(metrics, turn_metrics)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
      state = rules.close(state, total)
    return state, clients, metrics

  return interval


def _hand_over(
  parts: tuple[Part, ...],
  rules: Rules,
  config: SplitConfig,
  path: list[str],
  kind: str,
  observe: Observe,
  initial: tuple[tuple[Part, ...], tuple[Part, ...]] | None = None,
) -> tuple[Part, ...]:
  """Sends the client parts along a path of parties; returns all parts as its last party has them.

  With the initial parts of sender and recipient, it sends updates relative to them.
  """
  decoder = [len(parts) - 1] if rules.autoencoder else []
  indices = [*rules.plan.owned_by(ALICE), *decoder]

  def states(parts: Sequence[Part]) -> list[dict[str, PyTree]]:
    return [hand_over_state(parts[index], config) for index in indices]

  sent: PyTree = states(parts)
  if initial:
    sent = weight_delta.difference(sent, states(initial[0]))
  received = send_along(path, kind, jax.tree.map(np.asarray, sent), observe)
  if initial:
    received = weight_delta.restore(received, states(initial[1]))
  else:
    received = jax.tree.map(jnp.asarray, received)
  new_parts = list(parts)
  for index, state in zip(indices, received, strict=True):
    old = parts[index]
    variables = {k: state[k] for k in ("params", "batch_stats") if state.get(k)}
    new_parts[index] = Part({**old.variables, **variables}, state.get("opt_state", old.opt_state))
  return tuple(new_parts)


def send_along(path: list[str], kind: str, tensors: PyTree, observe: Observe) -> PyTree:
  """Sends tensors along a path of parties, of which only the last reads them; returns them."""
  for sender, receiver in itertools.pairwise(path):
    reader = None if receiver == path[-1] else path[-1]
    observe(Message(kind, sender, receiver, tensors, reader))
  return tensors
