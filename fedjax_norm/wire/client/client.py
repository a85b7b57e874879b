"""Alice: her turns (paper 003, Alg. 2)."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.errors import DivergedError, LostError, UserError
from fedjax_norm.local import Metrics
from fedjax_norm.split.algorithm import key_of_turn
from fedjax_norm.split.parties import Part
from fedjax_norm.split.step import carry, step
from fedjax_norm.typing import Batch, Key
from fedjax_norm.wire.client.hand_overs import AwayError, Keeper, Say
from fedjax_norm.wire.client.progress import Traffic
from fedjax_norm.wire.client.queries import Asked, ask, asking
from fedjax_norm.wire.client.remote_steps import Remote
from fedjax_norm.wire.protocol.network import Moment, Network, finite
from fedjax_norm.wire.protocol.refusals import OutOfOrderError
from fedjax_norm.wire.protocol.transport import Caller
from fedjax_norm.wire.protocol.turns import step_id
from fedjax_norm.wire.server.store import Handed

PAUSE = 0.2
"""Seconds between the questions of somebody who does not wait for a turn."""

_LONGEST_SILENCE = 0.5  # seconds in which a client at work says that it is there
_COUNTED = ("Forward", "Backward", "Get", "Put")


class Alice(NamedTuple):
  """What a client computes with.

  Attributes:
    network: the model.
    call: Bob.
    keeper: of her hand-overs.
    place: hers among the clients.
    number: of clients.
    steps: of one of her turns.
    rates: [rounds] float32.
    key: of her dropout.
    start: the key of the weights, should she be the first; None draws one.
    draw: her step, counted from the start of training -> its batch.
    limit: the most bytes of a message.
    patience: seconds for which she waits for the last weights when all turns are over.
  """

  network: Network
  call: Caller
  keeper: Keeper
  place: int
  number: int
  steps: int
  rates: np.ndarray
  key: Key
  start: Key | None
  draw: Callable[[np.int32], Batch]
  limit: int
  patience: float


class Turned(NamedTuple):
  """A turn that is over.

  Attributes:
    round: from 0.
    metrics: of its examples, in the U-shape; else Bob's alone to know.
    own: Alice's parts after it.
    step: the first step that is not in them.
  """

  round: int
  metrics: Metrics
  own: tuple[Part, ...]
  step: int


class Final(NamedTuple):
  """The parts after all turns, and whose hand-over they were."""

  own: tuple[Part, ...]
  handed: Handed


def train(
  alice: Alice,
  test: Callable[[Turned], Mapping[str, float] | None],
  after: Callable[[], None],
  say: Say,
) -> Final | None:
  """Takes turns until there are none left.

  Whatever breaks a turn off (a server that has restarted, a turn that has passed to another) leads
  back to asking whose turn it is: what was not handed over is done again, to the same bits.

  Args:
    alice: what she computes with.
    test: a turn whose hand-over is not put yet, so that Bob's part still is at this step for
      inference -> its scores, if it is to be evaluated.
    after: is told when they are kept, and once at the start.
    say: is told what happens.

  Returns:
    The last hand-over of all; None if there was none.

  Raises:
    StaleError: Bob has gone back to an older state.
    DivergedError: her part is not finite after a turn.
    LostError: Bob is, or whoever has the last weights when all turns are over.
  """
  said, over = "", None
  alice.keeper.adopt(ask(alice.call, alice.limit, waiting=False).handed)
  after()
  while True:
    asked = ask(alice.call, alice.limit, waiting=True)
    try:
      if asked.lacking and asked.handed:
        alice.keeper.seal_again(asked.handed)
      if asked.state == "yours":
        before = _carried(alice.call)
        with at_work(alice.call, alice.patience):
          turned = _turn(alice, asked)
          scores, spent = test(turned), _carried(alice.call).minus(before)
          alice.keeper.hand_over(turned.own, turned.step, spent, scores)
        after()
        continue
      if asked.state == "done":
        alice.keeper.check_fresh(asked.handed)
        if asked.handed is None:
          return None
        if asked.readable:
          return Final(alice.keeper.obtain(asked.handed), asked.handed)
    except OutOfOrderError as error:
      say(f"{error}")
    except AwayError as error:  # who may come back; of Bob it was waited for
      if f"{error}" != said:
        say(f"{error}")
      said = f"{error}"
    if asked.state == "wait":  # Bob has waited before he said so
      continue
    if asked.state == "done":
      over = time.monotonic() if over is None else over
      if time.monotonic() - over > alice.patience:
        raise LostError(
          "all turns are over and nobody is there to hand the last weights over; start the client "
          "that trained last again, and then this, both with the same flags."
        )
    time.sleep(PAUSE)


@contextlib.contextmanager
def at_work(call: Caller, patience: float) -> Iterator[None]:
  """While somebody computes, or compiles, however long: Bob hears of it, and waits.

  Args:
    call: Bob.
    patience: seconds, as Bob's may be.
  """
  over = threading.Event()
  silence = min(_LONGEST_SILENCE, patience / 4)

  def beat() -> None:
    while not over.wait(silence):
      with contextlib.suppress(UserError):  # which the step itself will meet, and tell
        call.once("Turn", asking(waiting=False))

  thread = threading.Thread(target=beat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join(silence)  # a word that a silent Bob does not answer is not waited for


def _carried(call: Caller) -> Traffic:
  """The bytes of steps and hand-overs so far."""
  return Traffic(*(sum(told[m] for m in _COUNTED) for told in (call.sent, call.received)))


def stay(alice: Alice, linger: float, *, last: bool) -> None:
  """Says that she has the last hand-over, and stays for those who have not.

  Args:
    alice: what she computes with.
    linger: seconds to stay for third parties who want to be handed it too.
    last: whether it is she who made it, so that whoever is there may need her.
  """
  until = time.monotonic() + linger
  with contextlib.suppress(LostError):  # without Bob nobody can ask for anything
    while True:
      asked = ask(alice.call, alice.limit, waiting=False, final=True)
      if asked.lacking and asked.handed:
        alice.keeper.seal_again(asked.handed)
      elif time.monotonic() >= until and (asked.deserted or not last):
        return
      else:
        time.sleep(PAUSE)


def _turn(alice: Alice, asked: Asked) -> Turned:
  network = alice.network
  round, client = divmod(asked.turn, alice.number)
  if client != alice.place or not 0 <= round < len(alice.rates):
    raise UserError(
      f"the server gives the client of place {alice.place} turn {asked.turn}, which is not "
      "its; use one version on both sides, and a server that you trust."
    )
  alice.keeper.check_fresh(asked.handed, asked.turn)
  if asked.handed:
    own = alice.keeper.obtain(asked.handed)
  else:
    seed = alice.start if alice.start is not None else _drawn()
    alice.keeper.seed = seed
    own = network.own(network.begin(seed))
  key = key_of_turn(alice.key, round, client)
  metrics = Metrics.zeros()
  for index in range(alice.steps):
    moment = Moment(round, client, alice.steps, index)
    rules = Remote(network, alice.call, alice.limit, step_id(asked.turn, index)).rules()
    done = step(
      rules.plan,
      rules.parties,
      rules.loss_gradient,
      None,
      carry,
      _with_bob(network, own),
      alice.draw(moment.place),
      moment.time,
      jax.random.fold_in(key, index),
      alice.rates[round],
    )
    own = network.own(done.parts)
    metrics = jax.tree.map(jnp.add, metrics, done.metrics)
  if not finite(own):
    raise DivergedError(
      "the client's part is not finite after its turn, which does not count: training has "
      "diverged; lower the learning rate at the server."
    )
  return Turned(round, metrics, own, step_id(asked.turn + 1, 0))


def _drawn() -> Key:
  """A key of 64 bits that nobody else knows."""
  words = np.frombuffer(secrets.token_bytes(8), np.uint32)
  return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def _with_bob(network: Network, own: tuple[Part, ...]) -> tuple[Part, ...]:
  """The segments' parts; of Bob's, Alice holds nothing."""
  places = dict(zip(network.alice, own, strict=True))
  return tuple(places.get(i, Part({}, ())) for i in range(len(network.outputs)))
