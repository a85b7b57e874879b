"""The server: it trains its segment of the model, assigns the turns and stores sealed hand-overs.

A turn counts as a whole or not at all. The steps of a turn change a copy of the server's weights.
When the client has sent its hand-over, the copy replaces the weights and is written to the disk.
If the client or the server stops before that, training starts again, with this client or the next
one, from the weights and the hand-over of the previous turn, and gives the same bits.

Pure functions (``run_requests.py``, ``tensor_requests.py``, ``weight_requests.py``) say how a
request changes the state; this module adds the locks, the clock and the disk. One lock guards the
state and is never held during a computation. The other is held during a computation, and is always
acquired before the first.
"""

import contextlib
import functools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fedjax_norm.errors import LostError, UserError
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.serving import Method
from fedjax_norm.wire.server import run_requests, store, tensor_requests, weight_requests
from fedjax_norm.wire.server.server_step import infer
from fedjax_norm.wire.server.state import RunSettings, RunState, initial_state
from fedjax_norm.wire.server.store import Committed, Membership, Totals

_Event = Callable[[RunState, float], RunState]
_Request = Callable[[RunState, str, bytes, float], tuple[RunState, bytes]]


class Server:
  """Answers the requests of a run's parties; every method is thread-safe.

  Attributes:
    failure: the error if the state could not be written, after which the process should stop.
  """

  def __init__(
    self,
    settings: RunSettings,
    folder: Path,
    on_round: Callable[[int, Totals], None] = lambda round, totals: None,
    clock: Callable[[], float] = time.monotonic,
    notify: Callable[[str], None] = lambda text: None,
  ):
    """Starts a run, or resumes the run in the folder.

    Args:
      settings: constants of the run.
      folder: the run's folder, which exists.
      on_round: called with the number of completed rounds and the totals before these are written;
        a restarted server may therefore report a round again.
      clock: returns the time in seconds.
      notify: receives status lines.

    Raises:
      UserError: the folder's files are damaged or belong to two different runs.
    """
    self._folder, self._on_round, self._clock, self._notify = folder, on_round, clock, notify
    self.failure: OSError | None = None
    self._computing = threading.Lock()  # acquired before the other lock
    self._changed = threading.Condition()  # its lock guards the state
    membership = store.read_membership(folder) or Membership(secrets.token_hex(16), {}, frozenset())
    part = settings.network.initial_parts(settings.key)[settings.network.server_index]
    committed = store.read_state(folder, part) or Committed(0, part, None, b"", Totals())
    if committed.hand_over and committed.hand_over.sender not in membership.members:
      raise UserError(
        f"the files of {folder} belong to two different runs; restore the folder or pass another "
        "--workdir."
      )
    store.write_membership(folder, membership)
    self._state = initial_state(settings, membership, committed, clock())

  @property
  def state(self) -> RunState:
    """The current state of the run."""
    return self._state

  def finished(self) -> bool:
    """Whether all turns are over, and every party that is still connected has the final weights."""
    state = self._state
    return state.done and not state.waiting(self._clock())

  def methods(self) -> dict[str, Method]:
    """Returns the functions that answer requests, by the method's name (paper 003, sec. 4)."""
    answer, hear, step = self._answer, self._hear, self._step
    return {
      "Describe": functools.partial(answer, run_requests.describe),
      "Join": functools.partial(answer, run_requests.join),
      "Turn": self._turn,
      "Forward": functools.partial(step, "Forward"),
      "Backward": functools.partial(step, "Backward"),
      "Infer": self._infer,
      "Members": functools.partial(hear, weight_requests.members),
      "Put": functools.partial(hear, weight_requests.put),
      "Get": functools.partial(hear, weight_requests.get),
    }

  def _answer(self, request: _Request, name: str, data: bytes) -> bytes:
    with self._changed:
      after, answer = request(self._state, name, data, self._clock())
      self._set_state(after)
      return answer

  def _hear(self, request: _Request, name: str, data: bytes) -> bytes:
    """Answers a request; even a refused request shows that its sender is running."""
    self._change(lambda state, now: state.heard_from(name, now))
    return self._answer(request, name, data)

  def _turn(self, name: str, data: bytes) -> bytes:
    """Answers when it is the caller's turn, or at the request's deadline."""
    with self._changed:
      after, request = run_requests.ask_turn(self._state, name, data, self._clock())
      self._set_state(after)
      while True:
        now = self._clock()
        after, answer = run_requests.answer_turn(self._state, request, now)
        self._set_state(after)
        if answer is not None:
          return answer
        self._changed.wait(request.deadline - now)

  def _step(self, method: str, name: str, data: bytes) -> bytes:
    request = tensor_requests.read(method, name, data, self._state.settings.limit)
    with self._computing:
      before = self._change(lambda state, now: state.heard_from(name, now))
      active = tensor_requests.match_step(before, request)
      repeated = tensor_requests.repeated_answer(before, active, request)
      if repeated is not None:
        return repeated
      with self._mark_computing(name):
        result = tensor_requests.compute(before, active, request.frame)
      answer = frames.encode(result.answer)
      self._change(
        lambda state, now: tensor_requests.after_step(state, active, request, result, answer)
      )
      return answer

  def _infer(self, name: str, data: bytes) -> bytes:
    """Answers activations with outputs in evaluation mode, from weights that fit the caller's."""
    frame = frames.decode(data, self._state.settings.limit)
    before = self._change(lambda state, now: state.heard_from(name, now))
    part = tensor_requests.inference_part(before, name, frame.step)
    with self._computing, self._mark_computing(name):
      return frames.encode(infer(before.settings.network, part, frame))

  @contextlib.contextmanager
  def _mark_computing(self, name: str) -> Iterator[None]:
    """Marks that the server computes for a party, so that no turn passes on in this time."""
    self._change(lambda state, now: state._replace(computing=True))
    try:
      yield
    finally:  # the server's computation does not count as the party's silence
      self._change(lambda state, now: state.heard_from(name, now)._replace(computing=False))

  def _change(self, event: _Event) -> RunState:
    """Sets and returns the state after an event, a function of the state and the time."""
    with self._changed:
      self._set_state(event(self._state, self._clock()))
      return self._state

  def _set_state(self, after: RunState) -> None:
    """Writes the changes to the disk, then sets the state; the caller holds the state's lock."""
    before = self._state
    try:
      if after.membership is not before.membership:
        store.write_membership(self._folder, after.membership)
      if after.committed is not before.committed:
        if after.round > before.round:
          self._on_round(before.round + 1, after.committed.totals)
          after = after._replace(committed=after.committed.at_new_round())
        store.write_state(self._folder, after.committed)
      if after.committed.totals.passed > before.committed.totals.passed:
        self._notify(f"{before.current_client} does not answer; its turn passes on.")
    except OSError as error:
      self.failure = error
      raise LostError(
        f"the server cannot write its state ({error.strerror}) and stops; free some space on its "
        "disk and run the commands of the server and the clients again."
      ) from error
    self._state = after
    if after.committed is not before.committed or after.offered_at != before.offered_at:
      self._changed.notify_all()
