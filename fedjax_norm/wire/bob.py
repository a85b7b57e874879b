"""Bob: the body of the model, whose turn it is, and the hand-overs that he cannot read.

A turn is what is done or not done: its steps change a copy, which becomes Bob's part, and is on the
disk, when the client has put its hand-over. Until then the part before it is kept, and a client
that comes back, the next one after a client that does not, and Bob himself after a restart begin
from it, and from the hand-over that belongs to it, and come to the same bits.
"""

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_norm.algorithms.split import key_of_turn
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.split.parties import Part
from fedjax_norm.wire import body, frames, seal, store
from fedjax_norm.wire.body import Computed, Way
from fedjax_norm.wire.frames import SEALED, Frame, FrameError
from fedjax_norm.wire.network import Moment, Network, finite
from fedjax_norm.wire.store import Committed, Handed, Member, Roll, Totals
from fedjax_norm.wire.transport import Method, OutOfOrderError, split_address
from fedjax_norm.wire.turns import STEPS, described, following, step_id

_LONGEST_POLL = 1.0  # seconds
_LONGEST_TEXT = 8192  # bytes of what a member says of itself, which all others are sent
_MOST_EXAMPLES = 2**31


class Setting(NamedTuple):
  """What Bob decides.

  Attributes:
    clients: the names on the certificates of the Alices, in the order of their turns.
    told: what clients are told of the run, JSON types.
    rates: [rounds] float32.
    key: of his initial weights and his dropout.
    patience: seconds without a word after which a client's turn passes on.
    peer: whether hand-overs stay with the Alices.
    limit: the most bytes of a message.
  """

  clients: tuple[str, ...]
  told: dict[str, Any]
  rates: np.ndarray
  key: jax.Array
  patience: float
  peer: bool
  limit: int


class Working(NamedTuple):
  """A turn that is being had.

  Attributes:
    part: Bob's.
    step: the next step.
    way: of the U-shape, what the way forward of this step left.
    answered: (method, step, digest of the request, answer) of the last request.
    totals: with the steps so far.
    got: bytes of the request for the last hand-over and of the answer, once it was asked for.
  """

  part: Part
  step: int
  way: Way | None
  answered: tuple[str, int, bytes, bytes] | None
  totals: Totals
  got: tuple[int, int] = (0, 0)


class Bob:
  """Bob's side of the protocol; every method is safe to call from many threads."""

  def __init__(
    self,
    network: Network,
    setting: Setting,
    authority: bytes,
    folder: Path,
    on_round: Callable[[int, Totals], None] = lambda round, totals: None,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = lambda text: None,
  ):
    """Begins a run, or goes on with the one that the folder holds.

    Args:
      network: the model.
      setting: what Bob decides.
      authority: PEM, of all certificates.
      folder: of this run alone; it exists.
      on_round: is told when a round is over, before that is on the disk, so perhaps again after a
        restart.
      clock: seconds.
      say: is told what happens.
    """
    self._network, self._setting, self._authority = network, setting, authority
    self._folder, self._on_round, self._clock, self._say = folder, on_round, clock, say
    self._changed = threading.Condition()
    self._computing = threading.Lock()  # taken before the other; one at a time computes
    self._busy = False
    self._seen: dict[str, float] = {}
    self._began = clock()
    self._told: dict[str, frozenset[str]] = {}  # whose keys somebody was told
    self._offered: frozenset[str] = frozenset()  # whose keys the last sender was told
    self._first: float | None = None  # when somebody first asked for a turn
    self._since: float | None = None  # when the present turn was offered
    self._working: Working | None = None
    roll = store.read_roll(folder) or Roll(secrets.token_hex(16), {}, frozenset())
    start = network.begin(setting.key)[network.bob]
    self._kept = store.read_state(folder, start) or Committed(0, start, None, b"", Totals())
    if self._kept.handed and self._kept.handed.sender not in roll.members:
      raise UserError(
        f"the files of {folder} are of two runs; restore it or pass another --workdir."
      )
    self.run = roll.run
    self._readers = self._readers_of(self._kept)
    self._enrol(dict(roll.members), roll.final)

  @property
  def committed(self) -> Committed:
    """What is on the disk."""
    return self._kept

  @property
  def done(self) -> bool:
    """Whether all turns are over."""
    return self._kept.turn >= len(self._setting.rates) * len(self._setting.clients)

  def deserted(self) -> bool:
    """Whether all turns are over and nobody who is still there waits for the last hand-over."""
    with self._changed:
      return self.done and not self._waiting()

  def methods(self) -> dict[str, Method]:
    """What clients may call, in the paper's groups (sec. 4)."""
    requests = {"Describe": self._describe, "Join": self._join, "Turn": self._turn}
    tensors = {"Forward": self._forward, "Backward": self._backward, "Infer": self._infer}
    weights = {"Members": self._list_members, "Put": self._put, "Get": self._get}
    return {**requests, **tensors, **weights}

  # Training request.

  def _describe(self, name: str, data: bytes) -> bytes:
    """What the run is; the first thing that a client asks."""
    frames.read_text(data, self._setting.limit)
    setting = self._setting
    return frames.text({"run": self.run, "clients": list(setting.clients), "told": setting.told})

  def _join(self, name: str, data: bytes) -> bytes:
    """A client, or a third party, gives its public key, and a client its place and address."""
    asked = frames.read_text(
      data, self._setting.limit, announcement=str, client=(int, type(None)), examples=int,
      address=str,
    )  # fmt: skip
    place = asked["client"]
    if max(len(asked[field].encode()) for field in ("announcement", "address")) > _LONGEST_TEXT:
      raise UserError(f"{name!r} says more of itself than the {_LONGEST_TEXT} bytes that it may.")
    if asked["address"]:
      split_address(asked["address"])
    announcement = asked["announcement"].encode()
    who, key = seal.read_announcement(announcement, self._authority, self.run)
    member = Member(**asked, public=key.public_bytes_raw().hex())
    if who != name:
      raise UserError(f"{name!r} announces a public key of {who!r}; it can only give its own.")
    if place is not None and self._place(name) != place:
      expected = (
        f"has place {self._place(name)}"
        if name in self._setting.clients
        else f"is none of {', '.join(self._setting.clients)}"
      )
      raise UserError(
        f"{name!r} asks for place {place} and, by its certificate, {expected}; correct --client_id."
      )
    if place is not None:
      self._check_size(name, member.examples)
    with self._changed:
      before = self._members.get(name)
      if before and before.public != member.public:
        raise UserError(
          f"{name!r} has joined this run with another public key; start it with the --workdir that "
          "it began with."
        )
      if before and place is None:  # a client that comes back to predict keeps its place
        member = before._replace(announcement=member.announcement)
      self._enrol({**self._members, name: member}, self._final - {name})
      self._offered -= {name}  # its certificate may be another
      self._heard(name)
      return frames.text({})

  def _check_size(self, name: str, examples: int) -> None:
    """Refuses a client that would take no step, or too many to count."""
    if examples < 1:
      raise UserError(f"{name!r} has no training examples, so it can take no part.")
    if examples >= _MOST_EXAMPLES or self._network.rules.steps(np.int64(examples)) >= STEPS:
      raise UserError(
        f"{name!r} has {examples} examples, of which a turn would have {STEPS:,} steps or more; "
        "divide them over more clients, or lower --local_epochs."
      )

  def _turn(self, name: str, data: bytes) -> bytes:
    """Whose turn it is, and who trained last; waits a little for the asker's own."""
    asked = frames.read_text(data, self._setting.limit, final=bool, waiting=bool)
    if name not in self._members:
      raise UserError(f"{name!r} has not joined.")
    with self._changed:
      waiting = asked["waiting"] and self._takes_part(name)
      poll = min(_LONGEST_POLL, self._setting.patience / 4) if waiting else 0.0
      deadline = self._clock() + poll
      self._heard(name)
      if asked["final"] and name not in self._final:
        self._enrol(self._members, self._final | {name})
      while True:
        self._pass_on()
        mine = waiting and not self.done and self._current == name and self._can_begin()
        left = deadline - self._clock()
        if mine or self.done or self._lacking(name) or left <= 0:
          break
        self._changed.wait(left)
      if mine:
        self._working = Working(
          self._kept.part, step_id(self._kept.turn, 0), None, None, self._kept.totals
        )
        self._heard(name)
      handed = self._kept.handed
      if handed:  # it may have changed since
        handed = handed._replace(address=self._members[handed.sender].address)
      return frames.text(
        {
          "state": "done" if self.done else "yours" if mine else "wait",
          "turn": self._kept.turn,
          "handed": handed._asdict() if handed else None,
          "readable": self._setting.peer or name in self._readers,
          "lacking": self._lacking(name),
          "deserted": not (self._waiting() - {name}),
        }
      )

  # Tensor transmission.

  def _forward(self, name: str, data: bytes) -> bytes:
    """A step's activations, and labels unless the tail is Alice's -> the gradient, or outputs."""
    return self._step("Forward", name, data)

  def _backward(self, name: str, data: bytes) -> bytes:
    """The gradient of the body's outputs -> that of the activations."""
    return self._step("Backward", name, data)

  def _step(self, method: str, name: str, data: bytes) -> bytes:
    frame = frames.decode(data, self._setting.limit)
    digest = hashlib.sha256(data).digest()
    with self._computing:
      with self._changed:
        self._heard(name)
        working = self._in_turn(method, name, frame.step)
        if working.answered and working.answered[:2] == (method, frame.step):
          if working.answered[2] != digest:
            raise UserError(
              f"{name!r} repeats {described(frame.step, self._number)} with other content, which "
              "is refused."
            )
          return working.answered[3]
      with self._at_work(name):
        computed = self._computed(working, frame)
      answer = frames.encode(computed.answer)
      with self._changed:
        if self._working is not working:
          raise OutOfOrderError(
            f"{name!r} has begun its turn anew, so that this step is out of order."
          )
        self._working = working._replace(
          part=computed.part,
          step=working.step + (computed.way is None),
          way=computed.way,
          answered=(method, frame.step, digest, answer),
          totals=_counted(working.totals, computed, len(data), len(answer)),
        )
        return answer

  def _computed(self, working: Working, frame: Frame) -> Computed:
    moment, network = self._moment(working.step), self._network
    rate = self._setting.rates[moment.round]
    if working.way is not None:
      return body.backward(network, working.part, working.way, rate, frame)
    key = key_of_turn(self._setting.key, moment.round, moment.client)
    return body.forward(network, working.part, moment, key, rate, frame)

  def _in_turn(self, method: str, name: str, step: int) -> Working:
    """The turn that a step belongs to, of which it is the next one or the last again."""
    working = self._working
    if working is None or self.done or name != self._current:
      raise OutOfOrderError(
        f"it is not {name!r}'s turn, so that its step is out of order; ask for the next turn."
      )
    awaited = "Forward" if working.way is None else "Backward"
    again = working.answered and working.answered[:2] == (method, step)
    if not again and (step, method) != (working.step, awaited):
      raise OutOfOrderError(
        f"{method} of {described(step, self._number)} is out of order: {awaited} of "
        f"{described(working.step, self._number)} is next."
      )
    return working

  @contextlib.contextmanager
  def _at_work(self, name: str) -> Iterator[None]:
    """While Bob computes for somebody; others may ask, but no turn passes on."""
    with self._changed:
      self._busy = True
    try:
      yield
    finally:
      with self._changed:
        self._busy = False
        self._heard(name)  # what took long was ours

  def _infer(self, name: str, data: bytes) -> bytes:
    """Activations in evaluation -> outputs, by the part that fits the caller's hand-over."""
    frame = frames.decode(data, self._setting.limit)
    with self._changed:
      self._heard(name)
      working, handed = self._working, self._kept.handed
      over = working is not None and name == self._current and self._is_over(working)
      if working and over and frame.step == step_id(self._kept.turn + 1, 0):
        part = working.part  # of a turn that is yet to be handed over
      elif handed and frame.step == handed.step:
        part = self._kept.part
      else:
        raise OutOfOrderError(
          "the weights that these activations come from are not those of the last hand-over; fetch "
          "it again."
        )
    with self._computing, self._at_work(name):
      return frames.encode(body.infer(self._network, part, frame))

  # Weight update.

  def _list_members(self, name: str, data: bytes) -> bytes:
    """The public keys of all who have joined, as they signed them."""
    frames.read_text(data, self._setting.limit)
    with self._changed:
      self._told[name] = frozenset(self._members)
      return frames.text({"members": {k: m.announcement for k, m in self._members.items()}})

  def _put(self, name: str, data: bytes) -> bytes:
    """The hand-over after a turn, sealed, or word that it is to be had from its sender."""
    frame = frames.decode(data, self._setting.limit)
    if self._setting.peer:
      frames.expect(frame, SEALED)
    elif name not in seal.receivers_of(seal.check_sealed(frame)):
      raise FrameError(f"a hand-over of {name!r} is not sealed for itself, who may need it again.")
    answer = frames.text({})
    with self._changed:
      self._heard(name)
      kept, working = self._kept, self._working
      if kept.handed and (kept.handed.step, kept.handed.sender) == (frame.step, name):
        # A repeated request, or the same for more receivers.
        self._commit(kept._replace(sealed=b"" if self._setting.peer else data))
        self._offered = self._told.get(name, frozenset())
        return answer
      if working is None or name != self._current:
        raise OutOfOrderError(f"it is not {name!r}'s turn, so that its hand-over is out of order.")
      if frame.step != step_id(kept.turn + 1, 0) or not self._is_over(working):
        raise OutOfOrderError(
          f"a hand-over is out of order: {described(working.step, self._number)} is next."
        )
      if not finite(working.part):
        raise DivergedError(
          f"the server's part is not finite after the turn of {name!r}, which does not count: "
          "training has diverged, or what was sent is wrong; lower the learning rate or look at "
          "the data."
        )
      up, down = working.got
      totals = _more_bytes(working.totals, up + len(data), down + len(answer))
      totals = totals._replace(turns=totals.turns + 1)
      sealed = b"" if self._setting.peer else data
      handed = Handed(frame.step, name, "")
      self._proceed(Committed(kept.turn + 1, working.part, handed, sealed, totals))
      self._offered = self._told.get(name, frozenset())
      return answer

  def _get(self, name: str, data: bytes) -> bytes:
    """The last hand-over, as its sender sealed it for the asker."""
    asked = frames.read_text(data, self._setting.limit, step=int)
    with self._changed:
      self._heard(name)
      handed = self._kept.handed
      if not handed or handed.step != asked["step"] or self._setting.peer:
        raise OutOfOrderError("that hand-over is not the last one, which alone is kept here.")
      if name not in self._readers:
        raise OutOfOrderError(f"the last hand-over is not sealed for {name!r} yet.")
      answer = frames.encode(seal.addressed(frames.decode(self._kept.sealed), name))
      if self._working is not None and name == self._current:
        self._working = self._working._replace(got=(len(data), len(answer)))
      return answer

  # Turns; the lock is held.

  @property
  def _number(self) -> int:
    return len(self._setting.clients)

  @property
  def _current(self) -> str:
    return self._setting.clients[self._kept.turn % self._number]

  def _place(self, name: str) -> int | None:
    clients = self._setting.clients
    return clients.index(name) if name in clients else None

  def _moment(self, step: int) -> Moment:
    turn, index = divmod(step, STEPS)
    round, client = divmod(turn, self._number)
    size = self._members[self._setting.clients[client]].examples
    return Moment(round, client, int(self._network.rules.steps(np.int32(size))), index)

  def _is_over(self, working: Working) -> bool:
    steps = self._moment(working.step).steps
    return working.step == step_id(self._kept.turn, steps) and working.way is None

  def _heard(self, name: str) -> None:
    self._seen[name] = self._clock()

  def _there(self, name: str, unheard: float = -np.inf) -> bool:
    return self._clock() - self._seen.get(name, unheard) <= self._setting.patience

  def _takes_part(self, name: str) -> bool:
    member = self._members.get(name)
    return member is not None and member.client is not None

  def _can_begin(self) -> bool:
    return self._since is not None and (
      self._setting.peer or self._kept.handed is None or self._current in self._readers
    )

  def _waiting(self) -> set[str]:
    """Who is there, or may come back to a server that has restarted, and has not got the end."""
    return {n for n in self._members if self._there(n, self._began) and n not in self._final}

  def _lacking(self, name: str) -> list[str]:
    """Who has come too late to be among the receivers of this sender's hand-over.

    Whom the sender was told of and left out, as it does not trust the certificate, stays out.
    """
    handed = self._kept.handed
    if self._setting.peer or not handed or handed.sender != name:
      return []
    return sorted(set(self._members) - self._readers - self._offered)

  def _pass_on(self) -> None:
    """Begins when all are there or long enough awaited; passes over who is not."""
    now = self._clock()
    if self.done:
      return
    here = [name for name in self._setting.clients if self._takes_part(name)]
    if self._since is None:
      self._first = now if self._first is None else self._first
      missing = any(name not in self._seen for name in self._setting.clients)
      if missing and now - self._first <= self._setting.patience:
        return
      self._since = now
      self._changed.notify_all()
    last = max(self._since, self._seen.get(self._current, -np.inf))
    if self._busy or now - last <= self._setting.patience:
      return
    ready = {
      self._setting.clients.index(name)
      for name in here
      if self._there(name)
      and (self._setting.peer or not self._kept.handed or name in self._readers)
    }
    later = following(self._kept.turn, self._number, ready)
    if later is None:
      return
    self._say(f"{self._current} has gone; its turn passes on.")
    totals = self._kept.totals
    passed = min(later, len(self._setting.rates) * self._number) - self._kept.turn
    self._proceed(
      self._kept._replace(turn=later, totals=totals._replace(passed=totals.passed + passed))
    )

  def _proceed(self, after: Committed) -> None:
    """To a later turn, and so perhaps to another round."""
    round = self._kept.turn // self._number
    if after.turn // self._number > round:
      self._on_round(round + 1, after.totals)
      after = after._replace(totals=after.totals._replace(loss=0.0, correct=0.0, examples=0))
    self._commit(after)
    self._working, self._since = None, self._clock()
    self._changed.notify_all()

  def _commit(self, after: Committed) -> None:
    """Puts it on the disk."""
    store.write_state(self._folder, after)
    self._kept, self._readers = after, self._readers_of(after)
    self._changed.notify_all()

  def _enrol(self, members: dict[str, Member], final: frozenset[str]) -> None:
    """Puts on the disk who takes part."""
    store.write_roll(self._folder, Roll(self.run, members, final))
    self._members, self._final = members, final

  def _readers_of(self, kept: Committed) -> frozenset[str]:
    return seal.receivers_of(frames.decode(kept.sealed)) if kept.sealed else frozenset()


def _more_bytes(totals: Totals, up: int, down: int) -> Totals:
  return totals._replace(up=totals.up + up, down=totals.down + down)


def _counted(totals: Totals, computed: Computed, up: int, down: int) -> Totals:
  metrics = computed.metrics
  return _more_bytes(totals, up, down)._replace(
    steps=totals.steps + (computed.way is None),
    loss=totals.loss + float(metrics.loss),
    correct=totals.correct + float(metrics.correct),
    examples=totals.examples + int(metrics.examples),
  )
