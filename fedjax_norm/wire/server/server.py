"""Bob: the body of the model, whose turn it is, and the hand-overs that he cannot read.

A turn is what is done or not done: its steps change a copy, which becomes Bob's part, and is on the
disk, when the client has put its hand-over. Until then the part before it is kept, and a client
that comes back, the next one after a client that does not, and Bob himself after a restart begin
from it, and from the hand-over that belongs to it, and come to the same bits.

What a request does to the state is said by pure functions (``requests.py``, ``tensors.py``,
``weights.py``); here are the locks, the clock and the disk. There are two locks: one for the state,
held as long as an answer takes that nothing is computed for, and one of whoever computes, which is
taken before the other and never while it is held.
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
from fedjax_norm.wire.protocol.transport import Method
from fedjax_norm.wire.server import body, run_requests, store, tensor_requests, weight_requests
from fedjax_norm.wire.server.state import Setting, State, begin
from fedjax_norm.wire.server.store import Committed, Roll, Totals

_Event = Callable[[State, float], State]
_Request = Callable[[State, str, bytes, float], tuple[State, bytes]]


class Bob:
  """Bob's side of the protocol; every method is safe to call from many threads.

  Attributes:
    failure: why the state could not be written, if so; whoever runs Bob should stop then.
  """

  def __init__(
    self,
    setting: Setting,
    folder: Path,
    on_round: Callable[[int, Totals], None] = lambda round, totals: None,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = lambda text: None,
  ):
    """Begins a run, or goes on with the one that the folder holds.

    Args:
      setting: what does not change.
      folder: of this run alone; it exists.
      on_round: is told when a round is over, before that is on the disk, so perhaps again after a
        restart.
      clock: seconds.
      say: is told what happens.

    Raises:
      UserError: the folder's files are damaged, or of two runs.
    """
    self._folder, self._on_round, self._clock, self._say = folder, on_round, clock, say
    self.failure: OSError | None = None
    self._computing = threading.Lock()  # taken before the other; one at a time computes
    self._changed = threading.Condition()  # its lock is that of the state
    roll = store.read_roll(folder) or Roll(secrets.token_hex(16), {}, frozenset())
    start = setting.network.begin(setting.key)[setting.network.bob]
    kept = store.read_state(folder, start) or Committed(0, start, None, b"", Totals())
    if kept.handed and kept.handed.sender not in roll.members:
      raise UserError(
        f"the files of {folder} are of two runs; restore it or pass another --workdir."
      )
    store.write_roll(folder, roll)
    self._state = begin(setting, roll, kept, clock())

  @property
  def state(self) -> State:
    """As it is now."""
    return self._state

  def deserted(self) -> bool:
    """Whether all turns are over and nobody who is still there waits for the last hand-over."""
    held = self._state
    return held.done and not held.waiting(self._clock())

  def methods(self) -> dict[str, Method]:
    """What clients may call, in the paper's groups (sec. 4)."""
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
      self._become(after)
      return answer

  def _hear(self, request: _Request, name: str, data: bytes) -> bytes:
    """Answers; a request that is refused is a word of its sender's too."""
    self._change(lambda held, now: held.heard(name, now))
    return self._answer(request, name, data)

  def _turn(self, name: str, data: bytes) -> bytes:
    """Answers when it is the asker's turn, or a little later."""
    with self._changed:
      after, asking = run_requests.ask(self._state, name, data, self._clock())
      self._become(after)
      while True:
        now = self._clock()
        after, answer = run_requests.turn(self._state, asking, now)
        self._become(after)
        if answer is not None:
          return answer
        self._changed.wait(asking.until - now)

  def _step(self, method: str, name: str, data: bytes) -> bytes:
    request = tensor_requests.read(method, name, data, self._state.setting.limit)
    with self._computing:
      before = self._change(lambda held, now: held.heard(name, now))
      working = tensor_requests.find(before, request)
      known = tensor_requests.answered(before, working, request)
      if known is not None:
        return known
      with self._at_work(name):
        computed = tensor_requests.compute(before, working, request.frame)
      answer = frames.encode(computed.answer)
      self._change(
        lambda held, now: tensor_requests.taken(held, working, request, computed, answer)
      )
      return answer

  def _infer(self, name: str, data: bytes) -> bytes:
    """Activations in evaluation -> outputs, by the part that fits the caller's hand-over."""
    frame = frames.decode(data, self._state.setting.limit)
    before = self._change(lambda held, now: held.heard(name, now))
    part = tensor_requests.part_for(before, name, frame.step)
    with self._computing, self._at_work(name):
      return frames.encode(body.infer(before.setting.network, part, frame))

  @contextlib.contextmanager
  def _at_work(self, name: str) -> Iterator[None]:
    """While Bob computes for somebody; others may ask, but no turn passes on."""
    self._change(lambda held, now: held._replace(busy=True))
    try:
      yield
    finally:  # what took long was ours
      self._change(lambda held, now: held.heard(name, now)._replace(busy=False))

  def _change(self, event: _Event) -> State:
    """The state after an event."""
    with self._changed:
      self._become(event(self._state, self._clock()))
      return self._state

  def _become(self, after: State) -> None:
    """Another state, once what has to be is on the disk; the lock is held.

    Raises:
      LostError: it cannot be written, and the state is what it was.
    """
    before = self._state
    try:
      if after.roll is not before.roll:
        store.write_roll(self._folder, after.roll)
      if after.kept is not before.kept:
        if after.round > before.round:
          self._on_round(before.round + 1, after.kept.totals)
          after = after._replace(kept=after.kept.of_new_round())
        store.write_state(self._folder, after.kept)
      if after.kept.totals.passed > before.kept.totals.passed:
        self._say(f"{before.current} has gone; its turn passes on.")
    except OSError as error:
      self.failure = error
      raise LostError(
        f"the server cannot write its state ({error.strerror}) and stops; free some space on its "
        "disk and start again what has stopped, with the same flags."
      ) from error
    self._state = after
    if after.kept is not before.kept or after.since != before.since:
      self._changed.notify_all()
