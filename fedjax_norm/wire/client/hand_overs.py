"""A client's hand-overs: it fetches and opens them, seals and puts them, and serves its peers."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedjax_norm.errors import DivergedError, LostError, UserError
from fedjax_norm.split.messages import HAND_OVER
from fedjax_norm.split.parties import Part
from fedjax_norm.typing import Key
from fedjax_norm.wire.client import progress
from fedjax_norm.wire.client.progress import NO_TRAFFIC, Progress, Traffic
from fedjax_norm.wire.protocol import fields, frames, hand_over_bytes, private_files, seal
from fedjax_norm.wire.protocol.caller import COMPUTING, Caller
from fedjax_norm.wire.protocol.frames import SEALED, UPDATES, Frame
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.network import Network, all_finite
from fedjax_norm.wire.protocol.seal import Label, SealError
from fedjax_norm.wire.protocol.serving import Method
from fedjax_norm.wire.protocol.step_ids import MAX_STEPS
from fedjax_norm.wire.server.store import HandOver

_FILE_NAME = re.compile(r"hand_over-([0-9]+)\.frame")
_PEER_PATIENCE = 2.0  # seconds; a client that waits for a peer asks the server again in between


class StaleError(UserError):
  """The server offers a hand-over or a turn older than those that this client knows."""


class AwayError(LostError):
  """The peer that has the last hand-over cannot be reached now."""


class HandOvers:
  """Makes and reads the hand-overs of one client.

  Attributes:
    seed: key of the initial weights that updates are relative to; None if unknown.
    announcement: the client's signed public key.
    progress: the client's progress, as on the disk.
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
    """Reads the client's progress.

    Args:
      network: the cut network.
      identity: the client's identity.
      run: name of the run.
      key: the client's private key for the run.
      call: calls the server.
      folder: the client's folder, with its hand-overs in peer mode.
      peer: whether hand-overs stay with the clients, not with the server.
      updates: whether hand-overs contain differences from the weights of a seed.
      limit: largest number of bytes in a message.
    """
    self._network, self._identity, self._run, self._key = network, identity, run, key
    self._call, self._folder, self._limit = call, folder, limit
    self._peer, self._updates = peer, updates
    self._last: tuple[int, bytes] | None = None
    self.seed: Key | None = None
    self.announcement = seal.make_announcement(identity, run, key)
    self.progress = progress.read(folder)

  def obtain(self, hand_over: HandOver) -> tuple[Part, ...]:
    """Fetches a hand-over and returns the client's parts in it.

    Raises:
      SealError: the hand-over is not from its alleged sender.
      StaleError: it is older than one that this client knows.
      FrameError: it does not fit the network.
      DivergedError: it has numbers that are not finite.
      AwayError: the peer that has it cannot be reached now.
      LostError: the server cannot be reached.
    """
    parts, seed = hand_over_bytes.unpack(self._network, self._read(hand_over))
    if not all_finite(parts):
      raise DivergedError(
        f"the weights that {hand_over.sender!r} hands over are not finite; begin a new run with a "
        "lower learning rate, or without that client."
      )
    self.seed = seed
    if hand_over.step > self.progress.reached:
      with self._advance(self.progress._replace(reached=hand_over.step)):
        pass
    return parts

  def recover_progress(self, hand_over: HandOver | None) -> None:
    """Adopts the progress of the server's last hand-over if its confirmation was lost."""
    written = progress.unconfirmed(self._folder)
    if not written or not hand_over:
      return
    if (hand_over.step, hand_over.sender) == (written.reached, self._identity.name):
      with self._advance(written):
        pass

  def check_fresh(self, hand_over: HandOver | None, turn: int | None = None) -> None:
    """Checks that the server has not returned to an older state, from a backup or on purpose.

    Seals do not show it: an old hand-over and the server's part of that time fit each other.

    Raises:
      StaleError: the last hand-over, or the turn that the server offers, is too old.
    """
    step = hand_over.step if hand_over else 0
    reached = self.progress.reached
    if step < reached or (turn is not None and turn * MAX_STEPS < max(reached, step)):
      raise StaleError(
        f"the server has gone back to step {step} but {self._identity.name} knows of step "
        f"{reached}: it was restored from a backup, or it is not honest; start it with its later "
        "--workdir, or begin a new run."
      )

  @contextlib.contextmanager
  def _advance(self, after: Progress) -> Iterator[None]:
    """Sets the progress on the disk and in memory when the block ends without error."""
    with progress.written(self._folder, after):
      yield
    self.progress = after

  def _read(self, hand_over: HandOver) -> bytes:
    """Returns the decrypted bytes of a hand-over."""
    self.check_fresh(hand_over)
    is_mine = hand_over.sender == self._identity.name
    if self._last and is_mine and self._last[0] == hand_over.step:
      return self._last[1]
    if is_mine and self._peer:
      return self._read_file(hand_over.step)
    if self._peer:
      sealed = self._fetch_from_peer(hand_over)
    else:
      answer = self._call("Get", frames.encode_json({"step": hand_over.step}), COMPUTING)
      sealed = frames.decode(answer, self._limit)
    name, authority = self._identity.name, self._identity.authority
    label = self._label(hand_over.step, hand_over.sender)
    data = seal.open_sealed(sealed, label, name, self._key, authority)
    if is_mine:
      self._last = hand_over.step, data
    return data

  def hand_over(
    self,
    parts: tuple[Part, ...],
    step: int,
    spent: Traffic = NO_TRAFFIC,
    scores: Mapping[str, float] | None = None,
  ) -> None:
    """Ends a turn: seals the client's parts for all members, puts them, and saves the progress.

    Args:
      parts: the client's parts after the turn.
      step: number of the first step that is not in the parts.
      spent: bytes of the turn so far.
      scores: scores of the turn, or None if it was not evaluated.
    """
    if self._updates:
      assert self.seed is not None
      data = hand_over_bytes.pack_updates(self._network, parts, step, self.seed)
    else:
      data = hand_over_bytes.pack(parts, step)
    self._last = step, data
    if self._peer:
      private_files.replace(self._path(step), data)
    request = frames.encode(self._sealed_for_members())
    put = Traffic(len(request), len(frames.encode_json({})))
    traffic = self.progress.traffic.plus(spent).plus(put)
    # After the put, no write remains that a full disk could prevent.
    with self._advance(Progress(step, traffic, scores)):
      self._put(request)
    for path in self._folder.iterdir():  # nobody can request the previous hand-over any more
      match = _FILE_NAME.fullmatch(path.name)
      if match and int(match[1]) < step:
        path.unlink()

  def reseal(self, hand_over: HandOver) -> None:
    """Seals the client's last hand-over again, for members that joined later as well."""
    if self._last is None or self._last[0] != hand_over.step:
      self._read(hand_over)
    self.check_fresh(hand_over)
    self._put(frames.encode(self._sealed_for_members()))

  def _put(self, request: bytes) -> None:
    frames.decode_json(self._call("Put", request, COMPUTING), frames.MAX_REQUEST_BYTES)

  def _sealed_for_members(self) -> Frame:
    """Returns the last hand-over sealed for all members, or in peer mode only its step."""
    assert self._last is not None
    step, data = self._last
    if self._peer:
      return Frame(SEALED, step, {})
    answer = self._call("Members", frames.encode_json({}))
    check = fields.mapping_of(fields.text)
    members = frames.decode_json(answer, self._limit, members=check)["members"]
    receivers = {}
    for name, announcement in members.items():
      with contextlib.suppress(SealError):  # members without a valid certificate are left out
        receivers[name] = self._checked_key(name, announcement)
    return self._sealed(step, data, receivers)

  def _checked_key(self, name: str, announcement: str) -> X25519PublicKey:
    """Returns a party's public key from its announcement, after checking the certificate."""
    authority = self._identity.authority
    owner, public = seal.read_announcement(announcement.encode(), authority, self._run)
    if owner != name:
      raise SealError(f"the public key that claims to be from {name!r} is from {owner!r}.")
    return public

  def _sealed(self, step: int, data: bytes, receivers: Mapping[str, X25519PublicKey]) -> Frame:
    label = self._label(step, self._identity.name)
    return seal.seal(data, label, self._key, self.announcement, receivers)

  def _label(self, step: int, sender: str) -> Label:
    return Label(self._run, step, sender, UPDATES if self._updates else HAND_OVER)

  def methods(self) -> dict[str, Method]:
    """Returns the methods that peers call."""
    return {"Fetch": self._answer_peer}

  def _answer_peer(self, name: str, data: bytes) -> bytes:
    request = frames.decode_json(
      data, frames.MAX_REQUEST_BYTES, step=fields.whole, announcement=fields.text
    )
    receivers = {name: self._checked_key(name, request["announcement"])}
    step = request["step"]
    return frames.encode(self._sealed(step, self._read_file(step), receivers))

  def _fetch_from_peer(self, hand_over: HandOver) -> Frame:
    request = {"step": hand_over.step, "announcement": self.announcement.decode()}
    try:
      with Caller(
        hand_over.address, self._identity, self._limit, _PEER_PATIENCE, hand_over.sender
      ) as peer:
        answer = peer("Fetch", frames.encode_json(request), COMPUTING)
        return frames.decode(answer, self._limit)
    except LostError as error:
      raise AwayError(
        f"{hand_over.sender}, who trained last and has the weights, cannot be reached at "
        f"{hand_over.address}; start it again with the same flags."
      ) from error

  def _path(self, step: int) -> Path:
    return self._folder / f"hand_over-{step}.frame"

  def _read_file(self, step: int) -> bytes:
    try:
      return self._path(step).read_bytes()
    except OSError as error:
      raise UserError(
        f"{self._identity.name} does not have the hand-over of step {step}; start it with the "
        "--workdir that it trained with."
      ) from error
