"""Split training with separately compiled parties that exchange :class:`Message` objects.

The results equal those of ``split/algorithm.py``, which is one compiled program. Here all messages
can be counted and read, and networked runs (``wire/``) use the same compiled functions.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.algorithms.round_algorithm import RoundContext
from fedjax_norm.data.federated import FederatedData, Transform, draw
from fedjax_norm.local_training import Metrics
from fedjax_norm.split import weight_delta
from fedjax_norm.split.algorithm import Turn, turn_key
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.messages import HAND_OVER, LABELS, MODEL, OUTPUT, SEED, Message, padded, rows
from fedjax_norm.split.parties import Part
from fedjax_norm.split.plan import ALICE, BOB, Plan
from fedjax_norm.split.rules import Rules
from fedjax_norm.split.state import ClientState, ServerState, hand_over_state
from fedjax_norm.split.step import Send, step
from fedjax_norm.split.tally import Tally
from fedjax_norm.typing import Array, Key, PyTree

Observe = Callable[[Message], None]
"""A callback that receives every message."""

AVERAGER = "averager"
"""The party that averages SplitFed's client parts (the fed server of Thapa et al. 2022)."""


def compile_parties(rules: Rules) -> Rules:
  """Returns the functions of split learning, of which each training function is jitted."""

  def jitted(functions: Any, *names: str) -> Any:
    return functions._replace(**{name: jax.jit(getattr(functions, name)) for name in names})

  autoencoder = rules.autoencoder and jitted(rules.autoencoder, "decode", "choose", "combine")
  parties = tuple(jitted(party, "forward", "backward") for party in rules.parties)
  rules = rules._replace(parties=parties, autoencoder=autoencoder)
  return jitted(rules, "loss_gradient", "begin", "end", "close")


def make_send(plan: Plan, client: str, batch_size: int, observe: Observe) -> Send:
  """Returns a ``Send`` that reports each message to ``observe``.

  A message has only the rows of real examples, and the receiver pads them with zeros. Relays
  forward labels to the server unread. They forward outputs unread to the client, or in the U-shape,
  in which the client computes the outputs, to the server.

  Args:
    plan: the segments of the model.
    client: name of the party in the client's role.
    batch_size: number of rows after padding.
    observe: callback that receives every message.
  """
  names = [client if segment.owner == ALICE else segment.owner for segment in plan.segments]
  readers = {LABELS: BOB, OUTPUT: BOB if plan.u_shaped else client}

  def send(kind: str, sender: int, receiver: int, tensors: PyTree, count: Array) -> PyTree:
    num_rows = int(count)
    if not num_rows:
      return jax.tree.map(jnp.zeros_like, tensors)
    to = names[receiver]
    reader = readers.get(kind, to)
    final_reader = None if reader == to else reader
    message = Message(kind, names[sender], to, rows(tensors, num_rows), final_reader)
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
  """Returns a function that runs rounds of training by messages.

  It has the arguments and results of the function of ``training.rounds.compile_interval``.

  Args:
    rules: functions of client and server.
    config: the options of split learning.
    transform: random transform of the clients' images.
    seed: seed of the run.
    start: seed -> initial server state, to which handed-over updates are relative.
    observe: callback that receives every message.
  """
  rules = compile_parties(rules)
  batch_size = config.batch_size
  draw_batch = jax.jit(functools.partial(draw, batch_size=batch_size, transform=transform))
  one_step = functools.partial(
    step, rules.plan, rules.parties, rules.loss_gradient, rules.autoencoder
  )
  # The parts that a client receives: its segments, and the decoder, which follows all segments.
  decoder = [len(rules.plan.segments)] if rules.autoencoder else []
  client_parts = [*rules.plan.owned_by(ALICE), *decoder]

  @functools.cache
  def initial_parts(seed: int) -> tuple[Part, ...]:
    state = start(seed)
    return rules.begin(state, rules.init_client(state))

  def turn(parts: tuple[Part, ...], row: int, client_id: int, context: RoundContext) -> Turn:
    steps = int(rules.steps(context.data.sizes[row]))
    key = turn_key(context.key, context.round, context.data.clients[row])
    send = make_send(rules.plan, f"{ALICE}{client_id}", batch_size, observe)
    metrics, tally, reconstruction = Metrics.zeros(), Tally.zeros(), jnp.float32(0)
    for index in range(steps):
      step_index = np.int32(int(context.round) * steps + index)
      batch = draw_batch(context.data, row, step_index, key=context.key)
      time, dropout = np.float32(step_index / np.int32(steps)), jax.random.fold_in(key, index)
      result = one_step(send, parts, batch, time, dropout, context.rate)
      parts, metrics = result.parts, optax.tree.add(metrics, result.metrics)
      tally = tally.add(rules.step_tally(result.examples, result.exchanged))
      reconstruction = result.reconstruction
    return parts, metrics, tally, reconstruction

  def states(parts: Sequence[Part]) -> list[dict[str, PyTree]]:
    return [hand_over_state(parts[index], config) for index in client_parts]

  def hand_over(
    parts: tuple[Part, ...],
    path: list[str],
    kind: str,
    initial: tuple[tuple[Part, ...], tuple[Part, ...]] | None = None,
  ) -> tuple[Part, ...]:
    """Sends the client's parts along a path of parties; returns all parts with the received ones.

    If the initial parts of sender and receiver are given, updates relative to them are sent.
    """
    sent: PyTree = states(parts)
    if initial:
      sent = weight_delta.difference(sent, states(initial[0]))
    received = send_along(path, kind, jax.tree.map(np.asarray, sent), observe)
    received = jax.tree.map(jnp.asarray, received)
    if initial:
      received = weight_delta.restore(received, states(initial[1]))
    new_parts = list(parts)
    for index, state in zip(client_parts, received, strict=True):
      old = parts[index]
      variables = {k: state[k] for k in ("params", "batch_stats") if state.get(k)}
      new_parts[index] = Part({**old.variables, **variables}, state.get("opt_state", old.opt_state))
    return tuple(new_parts)

  def receive_parts(
    state: ServerState, client: ClientState, parts: tuple[Part, ...], client_id: int
  ) -> tuple[Part, ...]:
    """Sends a client the weights that it needs for its turn, and returns them as received."""
    last, name = int(state.last), f"{ALICE}{client_id}"
    if config.variant != "split":
      return hand_over(parts, [AVERAGER, name], MODEL)
    if last in (-1, client_id):
      return parts
    path = [f"{ALICE}{last}", *([BOB] if config.hand_over == "centralised" else []), name]
    if config.handed_over != "updates":
      return hand_over(parts, path, HAND_OVER)
    received_seed = seed  # a client receives the seed before its first turn only
    if int(client.turns) == 0:
      seed_path = [f"{ALICE}{int(state.starter)}", *path[1:]]
      received_seed = int(send_along(seed_path, SEED, np.uint64(seed), observe))
    return hand_over(parts, path, HAND_OVER, (initial_parts(seed), initial_parts(received_seed)))

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
          hand_over(parts, [f"{ALICE}{client_id}", AVERAGER], MODEL)
        state, client, sums = rules.end(state, client, row, context, parts, tally, reconstruction)
        clients = jax.tree.map(lambda a, b, row=row: a.at[row].set(b), clients, client)
        metrics = optax.tree.add(metrics, turn_metrics)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
      state = rules.close(state, total)
    return state, clients, metrics

  return interval


def send_along(path: list[str], kind: str, tensors: PyTree, observe: Observe) -> PyTree:
  """Sends tensors along a path of parties and returns them; only the last party reads them."""
  for sender, receiver in itertools.pairwise(path):
    reader = None if receiver == path[-1] else path[-1]
    observe(Message(kind, sender, receiver, tensors, reader))
  return tensors
