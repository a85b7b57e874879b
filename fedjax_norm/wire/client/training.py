"""Trains a client in its turns (paper 003, Alg. 2)."""

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
from fedjax_norm.split.algorithm import turn_key
from fedjax_norm.split.parties import Part
from fedjax_norm.split.step import deliver, step
from fedjax_norm.typing import Batch, Key
from fedjax_norm.wire.client.hand_overs import AwayError, HandOvers
from fedjax_norm.wire.client.progress import Traffic
from fedjax_norm.wire.client.queries import TurnInfo, ask_turn, turn_request
from fedjax_norm.wire.client.remote_steps import RemoteServer
from fedjax_norm.wire.protocol.caller import Caller, Notify
from fedjax_norm.wire.protocol.network import Network, StepPosition, all_finite
from fedjax_norm.wire.protocol.remote_errors import OutOfOrderError
from fedjax_norm.wire.protocol.step_ids import step_id
from fedjax_norm.wire.server.store import HandOver

PAUSE = 0.2
"""Seconds between the requests of a party that has no turn to wait for."""

_LONGEST_SILENCE = 0.5  # seconds between the keep-alive requests of a client that computes
_COUNTED = ("Forward", "Backward", "Get", "Put")  # methods of steps and hand-overs


class Client(NamedTuple):
  """A client's settings, data and connection.

  Attributes:
    network: the cut network.
    call: calls the server.
    hand_overs: makes and reads the client's hand-overs.
    client_id: index of the client, from 0.
    num_clients: number of clients in the run.
    steps: number of local steps in a turn of this client.
    rates: learning rate of each round, [rounds] float32.
    key: random key that dropout derives from.
    start: random key of the initial weights if this client trains first; None draws one.
    draw: number of the client's step, counted over all rounds -> the batch of this step.
    limit: largest number of bytes in a message.
    patience: seconds to wait for the last weights after all turns (--patience).
  """

  network: Network
  call: Caller
  hand_overs: HandOvers
  client_id: int
  num_clients: int
  steps: int
  rates: np.ndarray
  key: Key
  start: Key | None
  draw: Callable[[np.int32], Batch]
  limit: int
  patience: float


class FinishedTurn(NamedTuple):
  """A client's turn after its last step, before its hand-over.

  Attributes:
    round: number of the round, from 0.
    parts: state of the client's segments, (head,) or (head, tail).
    next_step: number of the first step after the turn.
  """

  round: int
  parts: tuple[Part, ...]
  next_step: int


class FinalWeights(NamedTuple):
  """The weights of the client's segments after all turns, and the hand-over that had them."""

  parts: tuple[Part, ...]
  hand_over: HandOver


def train(
  client: Client,
  test: Callable[[FinishedTurn], Mapping[str, float] | None],
  after: Callable[[], None],
  notify: Notify,
) -> FinalWeights | None:
  """Takes the client's turns until the turns of all clients are over.

  If a turn is interrupted (the server restarted, or the turn passed to another client), the client
  asks for a turn again. Steps that were not handed over are repeated and give the same bits.

  Args:
    client: the client.
    test: called with each turn before its hand-over; returns the test scores, or None if this turn
      is not evaluated.
    after: called after each hand-over, and once at the start.
    notify: receives status lines.

  Returns:
    The client's weights from the last hand-over, or None if no client handed over.

  Raises:
    StaleError: the server has returned to an older state.
    DivergedError: the client's weights are not finite after a turn.
    LostError: the server is unreachable, or after all turns no client hands the weights over.
  """
  last_notice, over = "", None
  client.hand_overs.recover_progress(ask_turn(client.call, client.limit, waiting=False).hand_over)
  after()
  while True:
    info = ask_turn(client.call, client.limit, waiting=True)
    try:
      if info.reseal and info.hand_over:
        client.hand_overs.reseal(info.hand_over)
      if info.state == "yours":
        before = _traffic(client.call)
        with keep_alive(client.call, client.patience):
          turn = _take_turn(client, info)
          scores, spent = test(turn), _traffic(client.call).minus(before)
          client.hand_overs.hand_over(turn.parts, turn.next_step, spent, scores)
        after()
        continue
      if info.state == "done":
        client.hand_overs.check_fresh(info.hand_over)
        if info.hand_over is None:
          return None
        if info.readable:
          return FinalWeights(client.hand_overs.obtain(info.hand_over), info.hand_over)
    except OutOfOrderError as error:
      notify(f"{error}")
    except AwayError as error:  # the peer may return
      if f"{error}" != last_notice:
        notify(f"{error}")
      last_notice = f"{error}"
    if info.state == "wait":  # the server has waited before this answer
      continue
    if info.state == "done":
      over = time.monotonic() if over is None else over
      if time.monotonic() - over > client.patience:
        raise LostError(
          "all turns are over but no client hands the last weights over; start the client that "
          "trained last again, and then this client, both with the same flags."
        )
    time.sleep(PAUSE)


@contextlib.contextmanager
def keep_alive(call: Caller, patience: float) -> Iterator[None]:
  """Sends keep-alive requests while the block computes, so that the server keeps the turn.

  ``patience`` is the client's --patience in seconds, taken as an estimate of the server's.
  """
  over = threading.Event()
  silence = min(_LONGEST_SILENCE, patience / 4)

  def beat() -> None:
    while not over.wait(silence):
      with contextlib.suppress(UserError):  # the step itself will report the error
        call.once("Turn", turn_request(waiting=False))

  thread = threading.Thread(target=beat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join(silence)  # does not wait for the answer of a silent server


def _traffic(call: Caller) -> Traffic:
  """Returns the bytes that this process exchanged in steps and hand-overs."""
  return Traffic(*(sum(count[m] for m in _COUNTED) for count in (call.sent, call.received)))


def stay(client: Client, linger: float, *, last: bool) -> None:
  """Reports to the server that the client has the last hand-over, and waits for other parties.

  Args:
    client: the client.
    linger: seconds to wait for parties that may still join to predict (--linger).
    last: whether the client made the last hand-over; it then stays until the others have it.
  """
  until = time.monotonic() + linger
  with contextlib.suppress(LostError):  # without the server nobody can request the hand-over
    while True:
      info = ask_turn(client.call, client.limit, waiting=False, final=True)
      if info.reseal and info.hand_over:
        client.hand_overs.reseal(info.hand_over)
      elif time.monotonic() >= until and (info.nobody_waits or not last):
        return
      else:
        time.sleep(PAUSE)


def _take_turn(client: Client, info: TurnInfo) -> FinishedTurn:
  network = client.network
  round, index = divmod(info.turn, client.num_clients)
  if index != client.client_id or not 0 <= round < len(client.rates):
    raise UserError(
      f"the server gives client {client.client_id} turn {info.turn}, which is another client's; "
      "run the same version on both sides, and use a server that you trust."
    )
  client.hand_overs.check_fresh(info.hand_over, info.turn)
  if info.hand_over:
    parts = client.hand_overs.obtain(info.hand_over)
  else:
    words = np.frombuffer(secrets.token_bytes(8), np.uint32)
    drawn = jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")
    client.hand_overs.seed = seed = drawn if client.start is None else client.start
    parts = network.client_parts(network.initial_parts(seed))
  key = turn_key(client.key, round, index)
  for local_step in range(client.steps):
    position = StepPosition(round, index, client.steps, local_step)
    remote = RemoteServer(network, client.call, client.limit, step_id(info.turn, local_step))
    rules = remote.rules()
    functions = rules.plan, rules.parties, rules.loss_gradient, None, deliver
    mine = dict(zip(network.client_indices, parts, strict=True))
    segments = [mine.get(i, Part({}, ())) for i in range(len(network.outputs))]  # server's: empty
    batch, step_key = client.draw(position.client_step), jax.random.fold_in(key, local_step)
    result = step(*functions, segments, batch, position.time, step_key, client.rates[round])
    parts = network.client_parts(result.parts)
  if not all_finite(parts):
    raise DivergedError(
      "the client's weights are not finite after its turn, which does not count: training has "
      "diverged; lower --lr at the server."
    )
  return FinishedTurn(round, parts, step_id(info.turn + 1, 0))
