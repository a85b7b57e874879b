"""The Alices' hand-overs: fetched and opened, sealed and put, and kept for peers."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedjax_norm.errors import LostError, UserError
from fedjax_norm.split.messages import HAND_OVER
from fedjax_norm.split.parties import Part
from fedjax_norm.wire import frames, handing, private, seal
from fedjax_norm.wire.bob import Handed
from fedjax_norm.wire.frames import SEALED, UPDATES, Frame
from fedjax_norm.wire.identity import Identity
from fedjax_norm.wire.network import Network
from fedjax_norm.wire.seal import Label
from fedjax_norm.wire.transport import Caller, Method

_KEY = "exchange.key"
_KEPT = re.compile(r"hand_over-([0-9]+)\.frame")
_PEER_PATIENCE = 2.0  # seconds; whoever waits for a peer asks Bob again in between


def exchange_key(folder: Path, run: str) -> X25519PrivateKey:
  """A party's private key for a run, made when the folder has none.

  Args:
    folder: of the party.
    run: which the server says it is.

  Raises:
    UserError: the folder's key is of another run.
  """
  path = folder / _KEY
  if not path.exists():
    key = X25519PrivateKey.generate()
    private.create(path, f"{run} {key.private_bytes_raw().hex()}".encode())
    return key
  held, _, text = path.read_text().partition(" ")
  if held != run:
    raise UserError(
      f"{folder} belongs to another run than the one that the server is at now; pass another "
      "--workdir, or start the server with the --workdir of that run."
    )
  return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))


class Keeper:
  """One Alice's side of handing over.

  Attributes:
    seed: that the weights are relative to, where updates travel; None until it is known.
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

  def obtain(self, handed: Handed) -> tuple[Part, ...]:
    """Alice's parts as somebody handed them over.

    Raises:
      SealError: that somebody did not.
      FrameError: it does not fit the network.
      LostError: the peer who has it cannot be reached now.
    """
    parts, seed = handing.unpack(self._network, self._opened(handed))
    self.seed = seed
    return parts

  def _opened(self, handed: Handed) -> bytes:
    mine = handed.sender == self._identity.name
    if self._last and mine and self._last[0] == handed.step:
      return self._last[1]
    if mine and self._peer:
      return self._kept(handed.step)
    if self._peer:
      sealed = self._fetch(handed)
    else:
      answer = self._call("Get", frames.text({"step": handed.step}))
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

  def hand_over(self, own: tuple[Part, ...], step: int) -> None:
    """Seals and puts what a turn has made, for all who have joined."""
    if self._updates:
      assert self.seed is not None
      data = handing.pack_updates(self._network, own, step, self.seed)
    else:
      data = handing.pack(own, step)
    self._last = step, data
    if self._peer:
      private.replace(self._path(step), data)
    self._put()
    for path in self._folder.iterdir():  # the one before can no longer be asked for
      found = _KEPT.fullmatch(path.name)
      if found and int(found[1]) < step:
        path.unlink()

  def seal_again(self, handed: Handed) -> None:
    """Seals her last hand-over for those who have joined since."""
    if self._last is None or self._last[0] != handed.step:
      self._opened(handed)
    self._put()

  def _put(self) -> None:
    assert self._last is not None
    step, data = self._last
    sealed = Frame(SEALED, step, {})
    if not self._peer:
      answer = self._call("Members", frames.text({}))
      listed = frames.read_text(answer, self._limit, members=dict)["members"]
      sealed = self._sealed(step, data, self._trusted(listed))
    self._call("Put", frames.encode(sealed))

  def _trusted(self, listed: Mapping[str, Any]) -> dict[str, X25519PublicKey]:
    """Who may read it: those whose announcements the authority vouches for."""
    found = {}
    for name, announcement in listed.items():
      who, public = seal.read_announcement(
        str(announcement).encode(), self._identity.authority, self._run
      )
      if who != name:
        raise seal.SealError(f"the public key that is said to be {name!r}'s is {who!r}'s.")
      found[who] = public
    return found

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
    asked = frames.read_text(data, self._limit, step=int, announcement=str)
    receivers = self._trusted({name: asked["announcement"]})
    return frames.encode(self._sealed(asked["step"], self._kept(asked["step"]), receivers))

  def _fetch(self, handed: Handed) -> Frame:
    asked = {"step": handed.step, "announcement": self.announcement.decode()}
    try:
      with Caller(
        handed.address, self._identity, self._limit, _PEER_PATIENCE, handed.sender
      ) as peer:
        return frames.decode(peer("Fetch", frames.text(asked)), self._limit)
    except LostError as error:
      raise LostError(
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
