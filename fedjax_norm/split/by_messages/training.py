"""Split learning step by step: parties compiled one by one, and every message an object.

It computes what ``split/algorithm.py`` computes in one program, as a real deployment would: a test
can read all messages, and the wire runs the same compiled functions.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.algorithms.contract import RoundContext
from fedjax_norm.data.federated import Transform, draw
from fedjax_norm.local import Metrics
from fedjax_norm.split import weight_delta
from fedjax_norm.split.algorithm import turn_key
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.tally import Tally
from fedjax_norm.split.messages import HAND_OVER, LABELS, MODEL, OUTPUT, SEED, Message, padded, rows
from fedjax_norm.split.parties import Part, Party
from fedjax_norm.split.plan import ALICE, BOB, Plan
from fedjax_norm.split.rules import Rules
from fedjax_norm.split.state import ClientState, ServerState, travelling
from fedjax_norm.split.step import Send, step
from fedjax_norm.typing import Array, Batch, PyTree

Observe = Callable[[Message], None]
"""Sees every message that is sent."""

AVERAGER = "averager"
"""Who averages the client parts of SplitFed; the federated server of Thapa et al."""


def compiled(rules: Rules) -> Rules:
  """The rules with each party's computations compiled by themselves."""
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


def send_rows(plan: Plan, alice: str, batch_size: int, observe: Observe) -> Send:
  """What carries a minibatch's messages: rows of real examples, padded where they arrive.

  Relays pass on labels, which are for Bob, and outputs, which are for Alice; in the U-shape she
  has them, and they are for Bob if they are sent at all.

  Args:
    plan: the segments.
    alice: who plays her.
    batch_size: rows where they arrive.
    observe: sees every message.
  """
  names = [alice if segment.owner == ALICE else segment.owner for segment in plan.segments]
  readers = {LABELS: BOB, OUTPUT: BOB if plan.u_shaped else alice}

  def send(kind: str, sender: int, receiver: int, tensors: PyTree, count: Array) -> PyTree:
    some = int(count)
    if not some:
      return jax.tree.map(jnp.zeros_like, tensors)
    reader = readers.get(kind, names[receiver])
    passed_on = None if reader == names[receiver] else reader
    message = Message(kind, names[sender], names[receiver], rows(tensors, some), passed_on)
    observe(message)
    return jax.tree.map(jnp.asarray, padded(message.tensors, batch_size))

  return send


def compile_interval(
  rules: Rules,
  config: SplitConfig,
  transform: Transform,
  seed: int,
  start: Callable[[int], ServerState],
  observe: Observe,
) -> Callable[..., Any]:
  """An interval like ``program.compile_interval``'s, by messages.

  Args:
    rules: what each party does.
    config: the options.
    transform: of the clients' images.
    seed: of the run.
    start: a seed -> the state that it gives, which updates are relative to.
    observe: sees every message.
  """
  rules = compiled(rules)
  batch_size = config.batch_size
  one_step = functools.partial(
    step, rules.plan, rules.parties, rules.loss_gradient, rules.autoencoder
  )

  @functools.cache
  def begun(seed: int) -> tuple[Part, ...]:
    state = start(seed)
    return rules.begin(state, rules.init_client(state))

  @jax.jit
  def drawn(data, row, place, key) -> Batch:
    return draw(data, row, place, batch_size, transform, key)

  def turn(parts: tuple[Part, ...], row: int, client: int, context: RoundContext):
    steps = int(rules.steps(context.data.sizes[row]))
    key = turn_key(context.key, context.round, context.data.clients[row])
    send = send_rows(rules.plan, f"{ALICE}{client}", batch_size, observe)
    metrics, tally, done = Metrics.zeros(), Tally.zeros(), None
    for index in range(steps):
      place = np.int32(int(context.round) * steps + index)
      batch = drawn(context.data, row, place, context.key)
      now = np.float32(place / np.int32(steps))
      dropout = jax.random.fold_in(key, index)
      done = one_step(send, parts, batch, now, dropout, context.rate)
      parts, metrics = done.parts, optax.tree.add(metrics, done.metrics)
      tally = tally.add(rules.step_tally(done.examples, done.exchanged))
    return parts, metrics, tally, done.reconstruction if done else jnp.float32(0)

  def handed_over(state: ServerState, own: ClientState, parts: tuple[Part, ...], client: int):
    """The parts as they reach a client, by way of the messages that bring them."""
    last, me = int(state.last), f"{ALICE}{client}"
    if config.variant != "split":
      return _travel(parts, rules, config, [AVERAGER, me], MODEL, observe)
    if last in (-1, client):
      return parts
    path = [f"{ALICE}{last}", *([BOB] if config.hand_over == "centralised" else []), me]
    if config.handed_over != "updates":
      return _travel(parts, rules, config, path, HAND_OVER, observe)
    known = seed  # of a client that has been told it in an earlier turn
    if int(own.turns) == 0:
      told = pass_on(SEED, [f"{ALICE}{int(state.starter)}", *path[1:]], np.uint64(seed), observe)
      known = int(told)
    since = begun(seed), begun(known)
    return _travel(parts, rules, config, path, HAND_OVER, observe, since)

  def interval(state, clients, metrics, slots, rates, thetas, first, begin, end, data, key):
    slots = np.asarray(slots)
    for index in range(int(begin), int(end)):
      context = RoundContext(data, np.int32(first + index), rates[index], key, thetas[index])
      total: PyTree = None
      for place in np.asarray(rules.order(context, len(slots[index]))):
        row = int(slots[index][place])
        client = int(data.clients[row])
        own = jax.tree.map(lambda a, row=row: a[row], clients)
        parts = handed_over(state, own, rules.begin(state, own), client)
        parts, more, tally, reconstruction = turn(parts, row, client, context)
        if config.variant != "split":
          _travel(parts, rules, config, [f"{ALICE}{client}", AVERAGER], MODEL, observe)
        state, own, sums = rules.end(state, own, row, context, parts, tally, reconstruction)
        clients = jax.tree.map(lambda a, b, row=row: a.at[row].set(b), clients, own)
        metrics = optax.tree.add(metrics, more)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
      state = rules.close(state, total)
    return state, clients, metrics

  return interval


def _travel(
  parts: tuple[Part, ...],
  rules: Rules,
  config: SplitConfig,
  path: list[str],
  kind: str,
  observe: Observe,
  since: tuple[tuple[Part, ...], tuple[Part, ...]] | None = None,
) -> tuple[Part, ...]:
  """Sends Alice's parts along a path and puts together what arrives.

  Args:
    parts: of all segments.
    rules: who holds which.
    config: the options.
    path: who passes it on, first to last.
    kind: of the message.
    observe: sees it.
    since: the parts of the seed, as the sender and as the receiver has them, where only what has
      been added to them travels.
  """
  own = [*rules.plan.owned_by(ALICE), *([len(parts) - 1] if rules.autoencoder else [])]
  now = [travelling(parts[index], config) for index in own]
  if since:
    then, known = ([travelling(start[index], config) for index in own] for start in since)
    now = weight_delta.difference(now, then)
  arrived = pass_on(kind, path, jax.tree.map(np.asarray, now), observe)
  arrived = weight_delta.restore(arrived, known) if since else jax.tree.map(jnp.asarray, arrived)
  parts_there = list(parts)
  for index, held in zip(own, arrived, strict=True):
    old = parts[index]
    variables = {k: held[k] for k in ("params", "batch_stats") if held.get(k)}
    parts_there[index] = Part({**old.variables, **variables}, held.get("opt_state", old.opt_state))
  return tuple(parts_there)


def pass_on(kind: str, path: list[str], tensors: PyTree, observe: Observe) -> PyTree:
  """Sends tensors along a path of parties to its last, who alone reads them."""
  for sender, receiver in itertools.pairwise(path):
    reader = None if receiver == path[-1] else path[-1]
    observe(Message(kind, sender, receiver, tensors, reader))
  return tensors
