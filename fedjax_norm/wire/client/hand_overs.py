"""The Alices' hand-overs: fetched and opened, sealed and put, and kept for peers."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedjax_norm.errors import DivergedError, LostError, UserError
from fedjax_norm.split.messages import HAND_OVER
from fedjax_norm.split.parties import Part
from fedjax_norm.wire.client import progress
from fedjax_norm.wire.client.progress import NO_TRAFFIC, Progress, Traffic
from fedjax_norm.wire.protocol import fields, frames, hand_over_bytes, private_files, seal
from fedjax_norm.wire.protocol.frames import SEALED, UPDATES, Frame
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.network import Network, finite
from fedjax_norm.wire.protocol.seal import Label, SealError
from fedjax_norm.wire.protocol.transport import COMPUTING, Caller, Method
from fedjax_norm.wire.protocol.turns import STEPS
from fedjax_norm.wire.server.store import Handed

_KEY = "exchange.key"
_KEPT = re.compile(r"hand_over-([0-9]+)\.frame")
_PEER_PATIENCE = 2.0  # seconds; whoever waits for a peer asks Bob again in between


class StaleError(UserError):
  """A hand-over or a turn from before what this Alice has already seen."""


class AwayError(LostError):
  """The peer who has the last hand-over cannot be reached now."""


def exchange_key(folder: Path, run: str) -> X25519PrivateKey:
  """A party's private key for a run, made when the folder has none.

  Args:
    folder: of the party.
    run: which the server says it is.

  Raises:
    UserError: the folder's key is of another run, damaged, or may be read by others.
  """
  path = folder / _KEY
  if not path.exists():
    key = X25519PrivateKey.generate()
    private_files.replace(path, f"{run} {key.private_bytes_raw().hex()}".encode())
    return key
  private_files.check(path)
  held, _, text = path.read_bytes().partition(b" ")
  try:
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(text.decode()))
  except ValueError as error:
    raise UserError(
      f"{path} is damaged; restore it, or begin a new run with another --workdir on all sides."
    ) from error
  if held != run.encode():
    raise UserError(
      f"{folder} belongs to another run than the one that the server is at now; pass another "
      "--workdir, or start the server with the --workdir of that run."
    )
  return key


class Keeper:
  """One Alice's side of handing over.

  Attributes:
    seed: that the weights are relative to, where updates travel; None until it is known.
    progress: how far she is, as on the disk.
  """

  def __init__(
    self,
    network: Network,
    identity: Identity,
    run: str,
    key: X25519PrivateKey,
    call: Caller,
    folder: Path,
    *,
    peer: bool,
    updates: bool,
    limit: int,
  ):
    """Begins with what the folder keeps.

    Args:
      network: the model.
      identity: of this Alice.
      run: which.
      key: hers.
      call: Bob.
      folder: hers, for what peers may ask of her.
      peer: whether she keeps her hand-overs rather than Bob.
      updates: whether only what was added to the weights of a seed travels.
      limit: the most bytes of a message.
    """
    self._network, self._identity, self._run, self._key = network, identity, run, key
    self._call, self._folder, self._limit = call, folder, limit
    self._peer, self._updates = peer, updates
    self._last: tuple[int, bytes] | None = None
    self.seed: jax.Array | None = None
    self.announcement = seal.make_announcement(identity, run, key)
    self.progress = progress.read(folder)

  def obtain(self, handed: Handed) -> tuple[Part, ...]:
    """Alice's parts as somebody handed them over.

    Raises:
      SealError: that somebody did not.
      StaleError: it is an older one than she knows.
      FrameError: it does not fit the network.
      DivergedError: it holds numbers that are not finite.
      AwayError: the peer who has it cannot be reached now.
      LostError: Bob cannot.
    """
    parts, seed = hand_over_bytes.unpack(self._network, self._opened(handed))
    if not finite(parts):
      raise DivergedError(
        f"the weights that {handed.sender!r} hands over are not finite; begin a new run with a "
        "lower learning rate, or without that client."
      )
    self.seed = seed
    if handed.step > self.progress.reached:
      with self._advancing(self.progress._replace(reached=handed.step)):
        pass
    return parts

  def adopt(self, handed: Handed | None) -> None:
    """Keeps the progress of a hand-over that Bob has, but whose answer never came.

    Args:
      handed: the last hand-over, as he says.
    """
    found = progress.unconfirmed(self._folder)
    if found and handed and (handed.step, handed.sender) == (found.reached, self._identity.name):
      with self._advancing(found):
        pass

  def check_fresh(self, handed: Handed | None, turn: int | None = None) -> None:
    """Sees to it that Bob does not go back, by a backup or by intent.

    Seals alone do not show it: an old hand-over and Bob's part of that time fit each other.

    Args:
      handed: the last hand-over, as he says.
      turn: that he gives, if any.

    Raises:
      StaleError: he does.
    """
    step = handed.step if handed else 0
    reached = self.progress.reached
    if step < reached or (turn is not None and turn * STEPS < max(reached, step)):
      raise StaleError(
        f"the server has gone back to step {step} where {self._identity.name} knows of step "
        f"{reached}: a backup, or it is not honest; start it with the --workdir of then, or "
        "begin a new run."
      )

  @contextlib.contextmanager
  def _advancing(self, after: Progress) -> Iterator[None]:
    """How far she is after the block, on the disk and here."""
    with progress.written(self._folder, after):
      yield
    self.progress = after

  def _opened(self, handed: Handed) -> bytes:
    self.check_fresh(handed)
    mine = handed.sender == self._identity.name
    if self._last and mine and self._last[0] == handed.step:
      return self._last[1]
    if mine and self._peer:
      return self._kept(handed.step)
    if self._peer:
      sealed = self._fetch(handed)
    else:
      answer = self._call("Get", frames.text({"step": handed.step}), COMPUTING)
      sealed = frames.decode(answer, self._limit)
    data = seal.open_sealed(
      sealed,
      self._label(handed.step, handed.sender),
      self._identity.name,
      self._key,
      self._identity.authority,
    )
    if mine:
      self._last = handed.step, data
    return data

  def hand_over(
    self,
    own: tuple[Part, ...],
    step: int,
    spent: Traffic = NO_TRAFFIC,
    scores: Mapping[str, float] | None = None,
  ) -> None:
    """Seals and puts what a turn has made, for all who have joined, and keeps how far she is.

    Args:
      own: Alice's parts after the turn.
      step: the first that is not in them.
      spent: the turn's bytes so far.
      scores: of the turn, if it was evaluated.
    """
    if self._updates:
      assert self.seed is not None
      data = hand_over_bytes.pack_updates(self._network, own, step, self.seed)
    else:
      data = hand_over_bytes.pack(own, step)
    self._last = step, data
    if self._peer:
      private_files.replace(self._path(step), data)
    request = frames.encode(self._sealed_for_all())
    put = Traffic(len(request), len(frames.text({})))
    traffic = self.progress.traffic.plus(spent).plus(put)
    # Nothing that a full disk could stop is left to do after the server has heard of the turn.
    with self._advancing(Progress(step, traffic, scores)):
      self._put(request)
    for path in self._folder.iterdir():  # the one before can no longer be asked for
      found = _KEPT.fullmatch(path.name)
      if found and int(found[1]) < step:
        path.unlink()

  def seal_again(self, handed: Handed) -> None:
    """Seals her last hand-over for those who have joined since."""
    if self._last is None or self._last[0] != handed.step:
      self._opened(handed)
    self.check_fresh(handed)
    self._put(frames.encode(self._sealed_for_all()))

  def _put(self, request: bytes) -> None:
    frames.read_text(self._call("Put", request, COMPUTING), frames.LONGEST_REQUEST)

  def _sealed_for_all(self) -> Frame:
    """The last hand-over, sealed for all who have joined; nothing but its step among peers."""
    assert self._last is not None
    step, data = self._last
    if self._peer:
      return Frame(SEALED, step, {})
    answer = self._call("Members", frames.text({}))
    members = fields.mapping(fields.text)
    listed = frames.read_text(answer, self._limit, members=members)["members"]
    receivers = {}
    for name, announcement in listed.items():
      with contextlib.suppress(SealError):  # whoever is no longer vouched for reads no more
        receivers[name] = self._trusted(name, announcement)
    return self._sealed(step, data, receivers)

  def _trusted(self, name: str, announcement: str) -> X25519PublicKey:
    """The public key of somebody whom the authority vouches for."""
    who, public = seal.read_announcement(announcement.encode(), self._identity.authority, self._run)
    if who != name:
      raise SealError(f"the public key that is said to be {name!r}'s is {who!r}'s.")
    return public

  def _sealed(self, step: int, data: bytes, receivers: Mapping[str, X25519PublicKey]) -> Frame:
    label = self._label(step, self._identity.name)
    return seal.seal(data, label, self._key, self.announcement, receivers)

  def _label(self, step: int, sender: str) -> Label:
    return Label(self._run, step, sender, UPDATES if self._updates else HAND_OVER)

  # From peer to peer.

  def methods(self) -> dict[str, Method]:
    """What peers may call."""
    return {"Fetch": self._answer}

  def _answer(self, name: str, data: bytes) -> bytes:
    asked = frames.read_text(
      data, frames.LONGEST_REQUEST, step=fields.whole, announcement=fields.text
    )
    receivers = {name: self._trusted(name, asked["announcement"])}
    return frames.encode(self._sealed(asked["step"], self._kept(asked["step"]), receivers))

  def _fetch(self, handed: Handed) -> Frame:
    asked = {"step": handed.step, "announcement": self.announcement.decode()}
    try:
      with Caller(
        handed.address, self._identity, self._limit, _PEER_PATIENCE, handed.sender
      ) as peer:
        return frames.decode(peer("Fetch", frames.text(asked), COMPUTING), self._limit)
    except LostError as error:
      raise AwayError(
        f"{handed.sender}, who trained last and has the weights, cannot be reached at "
        f"{handed.address}; start it again with the same flags."
      ) from error

  def _path(self, step: int) -> Path:
    return self._folder / f"hand_over-{step}.frame"

  def _kept(self, step: int) -> bytes:
    try:
      return self._path(step).read_bytes()
    except OSError as error:
      raise UserError(
        f"{self._identity.name} does not have the hand-over of step {step}; it has to be started "
        "with the --workdir that it trained with."
      ) from error


Say = Callable[[str], None]
"""Is told what happens."""
