"""Bob: the body of the model, whose turn it is, and the hand-overs that he cannot read.

A turn is what is done or not done: its steps change a copy, which becomes Bob's part, and is on the
disk, when the client has put its hand-over. Until then the part before it is kept, and a client
that comes back, the next one after a client that does not, and Bob himself after a restart begin
from it, and from the hand-over that belongs to it, and come to the same bits.
"""

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.algorithms.split import key_of_turn
from fedjax_norm.errors import UserError
from fedjax_norm.local import Metrics
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, LABELS, OUTPUT, padded, rows
from fedjax_norm.split.parties import Part, Tape
from fedjax_norm.training.run_folder import write_atomic, write_json
from fedjax_norm.typing import Batch, PyTree
from fedjax_norm.wire import frames, seal
from fedjax_norm.wire.frames import SEALED, STATE, Frame, FrameError
from fedjax_norm.wire.network import Moment, Network, leading
from fedjax_norm.wire.transport import Method, OutOfOrderError
from fedjax_norm.wire.turns import STEPS, described, following, step_id

_MEMBERS, _STATE = "members.json", "state.frame"
_LONGEST_POLL = 1.0  # seconds


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


class Totals(NamedTuple):
  """What has happened, as it is told.

  Attributes:
    steps: taken.
    turns: completed.
    passed: turns that passed to another client.
    up: bytes of the requests of completed turns' steps.
    down: of the answers.
    loss: the sum over the present round's examples; Bob does not know it in the U-shape.
    correct: of them.
    examples: of them.
  """

  steps: int = 0
  turns: int = 0
  passed: int = 0
  up: int = 0
  down: int = 0
  loss: float = 0.0
  correct: float = 0.0
  examples: int = 0


class Handed(NamedTuple):
  """The last hand-over.

  Attributes:
    step: the first that is not in it.
    sender: who made it.
    address: where its sender answers peers; '' where Bob keeps it.
  """

  step: int
  sender: str
  address: str


class Committed(NamedTuple):
  """What Bob keeps on the disk.

  Attributes:
    turn: the next one.
    part: his, as the hand-over fits it.
    handed: the last hand-over; None before the first.
    sealed: it, unless it stays with its sender.
    totals: so far.
  """

  turn: int
  part: Part
  handed: Handed | None
  sealed: bytes
  totals: Totals


class Working(NamedTuple):
  """A turn that is being had.

  Attributes:
    part: Bob's.
    step: the next step.
    forward: of the U-shape, what the way forward of this step left, its mask and labels.
    answered: (method, step, digest of the request, answer) of the last request.
    totals: with the steps so far.
  """

  part: Part
  step: int
  forward: tuple[Tape, np.ndarray] | None
  answered: tuple[str, int, bytes, bytes] | None
  totals: Totals


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
    self._seen: dict[str, float] = {}
    self._final: set[str] = set()
    self._first: float | None = None  # when somebody first asked for a turn
    self._since: float | None = None  # when the present turn was offered
    self._working: Working | None = None
    members = folder / _MEMBERS
    if members.exists():
      content = json.loads(members.read_text())
      self.run, self._members = content["run"], content["members"]
    else:
      self.run, self._members = secrets.token_hex(16), {}
    self._start = network.begin(setting.key)[network.bob]
    self._kept = self._restored() or Committed(0, self._start, None, b"", Totals())
    self._readers = self._readers_of(self._kept)

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
    who, public = self._announced(asked)
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
    if place is not None and asked["examples"] < 1:
      raise UserError(f"{name!r} has no training examples, so it can take no part.")
    with self._changed:
      before = self._members.get(name)
      if before and self._announced(before)[1] != public:
        raise UserError(
          f"{name!r} has joined this run with another public key; start it with the --workdir that "
          "it began with."
        )
      if before and place is None:
        return frames.text({})  # a client that comes back to predict keeps its place
      self._members[name] = asked
      write_json(self._folder / _MEMBERS, {"run": self.run, "members": self._members})
      self._heard(name)
      return frames.text({})

  def _turn(self, name: str, data: bytes) -> bytes:
    """Whose turn it is, and who trained last; waits a little for the asker's own."""
    asked = frames.read_text(data, self._setting.limit, final=bool, waiting=bool)
    if name not in self._members:
      raise UserError(f"{name!r} has not joined.")
    with self._changed:
      deadline = self._clock() + min(_LONGEST_POLL, self._setting.patience / 4)
      self._heard(name)
      if asked["final"]:
        self._final.add(name)
      while True:
        self._pass_on()
        mine = asked["waiting"] and not self.done and self._current == name and self._can_begin()
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
        handed = handed._replace(address=self._members[handed.sender]["address"])
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

  def _announced(self, member: dict[str, Any]) -> tuple[str, bytes]:
    announcement = member["announcement"].encode()
    name, public = seal.read_announcement(announcement, self._authority, self.run)
    return name, public.public_bytes_raw()

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
    with self._changed:
      self._heard(name)
      working = self._working
      if working is None or self.done or name != self._current:
        raise OutOfOrderError(
          f"it is not {name!r}'s turn, so that its step is out of order; ask for the next turn."
        )
      if working.answered and working.answered[:2] == (method, frame.step):
        if working.answered[2] != digest:
          raise UserError(
            f"{name!r} repeats {described(frame.step, self._number)} with other content, which is "
            "refused."
          )
        return working.answered[3]
      awaited = "Forward" if working.forward is None else "Backward"
      if frame.step != working.step or method != awaited:
        raise OutOfOrderError(
          f"{method} of {described(frame.step, self._number)} is out of order: {awaited} of "
          f"{described(working.step, self._number)} is next."
        )
      compute = self._computed_forward if method == "Forward" else self._computed_backward
      after, answer = compute(working, frame)
      totals = after.totals._replace(
        up=after.totals.up + len(data), down=after.totals.down + len(answer)
      )
      self._working = after._replace(answered=(method, frame.step, digest, answer), totals=totals)
      self._heard(name)  # what took long was ours
      return answer

  def _computed_forward(self, working: Working, frame: Frame) -> tuple[Working, bytes]:
    network, rules = self._network, self._network.rules
    labelled = not rules.plan.u_shaped
    sent, count = self._received(frame, ACTIVATION, network.outputs[0], labelled=labelled)
    mask = (np.arange(network.batch_size) < count).astype(np.float32)
    labels = sent.get(LABELS)
    moment = self._moment(working.step)
    party = rules.parties[network.bob]
    key = key_of_turn(self._setting.key, moment.round, moment.client)
    y, tape = party.forward(
      working.part,
      sent[ACTIVATION],
      labels,
      jnp.asarray(mask),
      moment.time,
      jax.random.fold_in(key, moment.local_step),
    )
    if not labelled:
      answer = Frame(OUTPUT, working.step, frames.named(rows(y, count)))
      return working._replace(forward=(tape, mask)), frames.encode(answer)
    gradient, metrics = rules.loss_gradient(y, Batch(None, labels, jnp.asarray(mask)))
    return self._stepped(working, tape, mask, gradient, metrics)

  def _computed_backward(self, working: Working, frame: Frame) -> tuple[Working, bytes]:
    assert working.forward is not None
    tape, mask = working.forward
    network = self._network
    shapes = leading(network.outputs[network.bob], int(mask.sum()))
    gradient = _checked(frames.tree_of(frame, GRADIENT, shapes))
    gradient = jax.tree.map(jnp.asarray, padded(gradient, network.batch_size))
    return self._stepped(working, tape, mask, gradient, Metrics.zeros())

  def _stepped(
    self, working: Working, tape: Tape, mask: np.ndarray, gradient: PyTree, metrics: Metrics
  ) -> tuple[Working, bytes]:
    party = self._network.rules.parties[self._network.bob]
    moment = self._moment(working.step)
    part, gradient = party.backward(
      working.part, tape, gradient, jnp.asarray(mask).sum(), self._setting.rates[moment.round]
    )
    answer = Frame(GRADIENT, working.step, frames.named(rows(gradient, int(mask.sum()))))
    totals = working.totals
    totals = totals._replace(
      steps=totals.steps + 1,
      loss=totals.loss + float(metrics.loss),
      correct=totals.correct + float(metrics.correct),
      examples=totals.examples + int(metrics.examples),
    )
    after = working._replace(part=part, step=working.step + 1, forward=None, totals=totals)
    return after, frames.encode(answer)

  def _infer(self, name: str, data: bytes) -> bytes:
    """Activations in evaluation -> outputs, by the part that fits the caller's hand-over."""
    frame = frames.decode(data, self._setting.limit)
    network = self._network
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
      sent, count = self._received(frame, ACTIVATION, network.outputs[0], labelled=False)
      y = network.evaluate[network.bob](part.variables, sent[ACTIVATION])
      self._heard(name)
    return frames.encode(Frame(OUTPUT, frame.step, frames.named(rows(y, count))))

  def _received(
    self, frame: Frame, kind: str, shapes: PyTree, *, labelled: bool
  ) -> tuple[dict[str, PyTree], int]:
    """What a frame brings of some examples, padded to a minibatch, and how many they are."""
    first = next(iter(frame.tensors.values()), np.zeros(()))
    count = len(first) if first.ndim else 0
    if count > self._network.batch_size:
      raise FrameError(
        f"{count} examples came at once where a minibatch has {self._network.batch_size} at most."
      )
    wanted = {ACTIVATION: leading(shapes, count)}
    if labelled:
      wanted[LABELS] = leading(self._network.label, count)
    sent = frames.tree_of(frame, kind, wanted)
    _checked(sent[ACTIVATION])
    labels = sent.get(LABELS, np.zeros(0))
    if ((labels < 0) | (labels >= self._network.num_classes)).any():
      raise FrameError(f"a label is none of the {self._network.num_classes} classes.")
    return jax.tree.map(jnp.asarray, padded(sent, self._network.batch_size)), count

  # Weight update.

  def _list_members(self, name: str, data: bytes) -> bytes:
    """The public keys of all who have joined, as they signed them."""
    frames.read_text(data, self._setting.limit)
    with self._changed:
      return frames.text({"members": {k: m["announcement"] for k, m in self._members.items()}})

  def _put(self, name: str, data: bytes) -> bytes:
    """The hand-over after a turn, sealed, or word that it is to be had from its sender."""
    frame = frames.decode(data, self._setting.limit)
    if self._setting.peer:
      frames.expect(frame, SEALED)
    elif name not in seal.receivers_of(seal.check_sealed(frame)):
      raise FrameError(f"a hand-over of {name!r} is not sealed for itself, who may need it again.")
    with self._changed:
      self._heard(name)
      kept, working = self._kept, self._working
      if kept.handed and (kept.handed.step, kept.handed.sender) == (frame.step, name):
        # A repeated request, or the same for more receivers.
        self._commit(kept._replace(sealed=b"" if self._setting.peer else data))
        return frames.text({})
      if working is None or name != self._current:
        raise OutOfOrderError(f"it is not {name!r}'s turn, so that its hand-over is out of order.")
      if frame.step != step_id(kept.turn + 1, 0) or not self._is_over(working):
        raise OutOfOrderError(
          f"a hand-over is out of order: {described(working.step, self._number)} is next."
        )
      totals = working.totals._replace(turns=working.totals.turns + 1)
      sealed = b"" if self._setting.peer else data
      handed = Handed(frame.step, name, "")
      self._proceed(Committed(kept.turn + 1, working.part, handed, sealed, totals))
      return frames.text({})

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
      sealed = self._kept.sealed
    return frames.encode(seal.addressed(frames.decode(sealed), name))

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
    size = self._members[self._setting.clients[client]]["examples"]
    return Moment(round, client, int(self._network.rules.steps(np.int32(size))), index)

  def _is_over(self, working: Working) -> bool:
    steps = self._moment(working.step).steps
    return working.step == step_id(self._kept.turn, steps) and working.forward is None

  def _heard(self, name: str) -> None:
    self._seen[name] = self._clock()

  def _there(self, name: str) -> bool:
    return self._clock() - self._seen.get(name, -np.inf) <= self._setting.patience

  def _takes_part(self, name: str) -> bool:
    member = self._members.get(name)
    return bool(member) and member["client"] is not None

  def _can_begin(self) -> bool:
    return self._since is not None and (
      self._setting.peer or self._kept.handed is None or self._current in self._readers
    )

  def _waiting(self) -> set[str]:
    """Who is there and does not have the last hand-over yet."""
    return {n for n in self._members if self._there(n) and n not in self._final}

  def _lacking(self, name: str) -> list[str]:
    """Who has come too late to be among the receivers of this sender's hand-over."""
    handed = self._kept.handed
    if self._setting.peer or not handed or handed.sender != name:
      return []
    return sorted(set(self._members) - self._readers)

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
    if now - last <= self._setting.patience:
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
    """Puts it on the disk, whole or not at all."""
    head = {
      "turn": after.turn,
      "handed": after.handed._asdict() if after.handed else None,
      "totals": after.totals._asdict(),
    }
    content = {
      **frames.named(after.part),
      "json": frames.from_bytes(json.dumps(head).encode()),
      "sealed": frames.from_bytes(after.sealed),
    }
    write_atomic(self._folder / _STATE, frames.encode(Frame(STATE, after.turn, content)))
    self._kept, self._readers = after, self._readers_of(after)
    self._changed.notify_all()

  def _restored(self) -> Committed | None:
    path = self._folder / _STATE
    if not path.exists():
      return None
    try:
      frame = frames.decode(path.read_bytes())
      tensors = dict(frame.tensors)
      head = frames.parse(tensors.pop("json"), turn=int, handed=(dict, type(None)), totals=dict)
      sealed = tensors.pop("sealed").tobytes()
      part = frames.tree_of(frame._replace(tensors=tensors), STATE, self._start)
    except (FrameError, KeyError) as error:
      raise UserError(
        f"{path} is damaged or of another model ({error}); restore it or pass another --workdir."
      ) from error
    handed = Handed(**head["handed"]) if head["handed"] else None
    part = jax.tree.map(jnp.asarray, part)
    return Committed(head["turn"], part, handed, sealed, Totals(**head["totals"]))

  def _readers_of(self, kept: Committed) -> frozenset[str]:
    return seal.receivers_of(frames.decode(kept.sealed)) if kept.sealed else frozenset()


def _checked(tree: PyTree) -> PyTree:
  """Tensors whose numbers are all finite.

  Raises:
    FrameError: they are not, and would spoil Bob's part for all.
  """
  for leaf in jax.tree.leaves(tree):
    if not np.isfinite(np.asarray(leaf, np.float32)).all():
      raise FrameError(
        "a message holds numbers that are not finite, so training has diverged at its sender's; "
        "lower the learning rate."
      )
  return tree
