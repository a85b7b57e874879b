"""Fetches, decrypts, encrypts and uploads a client's hand-overs, or serves them to its peers."""

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
from fedjax_norm.wire.protocol import encryption, fields, frames, hand_over_bytes, private_files
from fedjax_norm.wire.protocol.caller import COMPUTING, Caller
from fedjax_norm.wire.protocol.encryption import Label, SealError
from fedjax_norm.wire.protocol.frames import SEALED, UPDATES, Frame
from fedjax_norm.wire.protocol.identity import Identity
from fedjax_norm.wire.protocol.network import Network, all_finite
from fedjax_norm.wire.protocol.serving import Method
from fedjax_norm.wire.protocol.step_ids import MAX_STEPS
from fedjax_norm.wire.server.store import HandOver

_FILE_NAME = re.compile(r"hand_over-([0-9]+)\.frame")
_PEER_PATIENCE = 2.0  # seconds to try to reach a peer before the client asks the server again


class StaleError(UserError):
  """The server offers a hand-over or a turn older than one that this client has seen."""


class AwayError(LostError):
  """The client that has the last hand-over cannot be reached now (--hand_over=peer)."""


class HandOvers:
  """Makes and reads one client's hand-overs: the state of its segments of the model.

  Attributes:
    seed: random key of the initial weights, from which weight updates count; None if unknown.
    announcement: the client's public key, signed, as JSON.
    progress: the client's progress, as stored on its disk.
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
    """Reads the client's progress from its folder.

    Args:
      network: the cut network.
      identity: the client's certificate and private key.
      run: name of the run.
      key: the client's exchange key for the run.
      call: calls the server.
      folder: the client's folder; with ``peer`` it also stores the client's last hand-over.
      peer: whether clients fetch hand-overs from each other (--hand_over=peer).
      updates: whether hand-overs have differences from initial weights (--handed_over=updates).
      limit: largest number of bytes in a message.
    """
    self._network, self._identity, self._run, self._key = network, identity, run, key
    self._call, self._folder, self._limit = call, folder, limit
    self._peer, self._updates = peer, updates
    self._last: tuple[int, bytes] | None = None
    self.seed: Key | None = None
    self.announcement = encryption.make_announcement(identity, run, key)
    self.progress = progress.read(folder)

  def obtain(self, hand_over: HandOver) -> tuple[Part, ...]:
    """Fetches a hand-over and returns the state of the client's segments, (head,) or (head, tail).

    Raises:
      SealError: its named sender did not make it for this client.
      StaleError: it is older than a hand-over that this client has seen.
      FrameError: its tensors differ from the network's in name, shape or dtype.
      DivergedError: it contains numbers that are not finite.
      AwayError: the client that has it cannot be reached now (--hand_over=peer).
      LostError: the server cannot be reached.
    """
    parts, seed = hand_over_bytes.unpack(self._network, self._read(hand_over))
    if not all_finite(parts):
      raise DivergedError(
        f"the weights that {hand_over.sender!r} hands over are not finite; begin a new run with a "
        "lower --lr at the server, or without that client."
      )
    self.seed = seed
    if hand_over.step > self.progress.reached:
      with self._advance(self.progress._replace(reached=hand_over.step)):
        pass
    return parts

  def recover_progress(self, hand_over: HandOver | None) -> None:
    """Completes the progress if the server's last hand-over is this client's unconfirmed one."""
    written, name = progress.unconfirmed(self._folder), self._identity.name
    if written and hand_over and (hand_over.step, hand_over.sender) == (written.reached, name):
      with self._advance(written):
        pass

  def check_fresh(self, hand_over: HandOver | None, turn: int | None = None) -> None:
    """Checks that the server has not returned to an older state, from a backup or on purpose.

    Encryption does not show this: an old hand-over and the server's weights of that time are valid.

    Raises:
      StaleError: the hand-over or the turn, which the server offers, is older than the progress.
    """
    step, reached = hand_over.step if hand_over else 0, self.progress.reached
    if step < reached or (turn is not None and turn * MAX_STEPS < max(reached, step)):
      raise StaleError(
        f"the server has gone back to step {step} but {self._identity.name} knows of step "
        f"{reached}: the server was restored from a backup, or it is not honest; start it with the "
        "--workdir that it used last, or begin a new run."
      )

  @contextlib.contextmanager
  def _advance(self, after: Progress) -> Iterator[None]:
    """Sets the progress on the disk and in this object when the block ends without error."""
    with progress.written(self._folder, after):
      yield
    self.progress = after

  def _read(self, hand_over: HandOver) -> bytes:
    """Returns the decrypted bytes of a hand-over."""
    self.check_fresh(hand_over)
    identity, label = self._identity, self._label(hand_over.step, hand_over.sender)
    is_mine = hand_over.sender == identity.name
    if self._last and is_mine and self._last[0] == hand_over.step:
      return self._last[1]
    if is_mine and self._peer:
      return self._read_file(hand_over.step)
    if self._peer:
      sealed = self._fetch_from_peer(hand_over)
    else:
      answer = self._call("Get", frames.encode_json({"step": hand_over.step}), COMPUTING)
      sealed = frames.decode(answer, self._limit)
    data = encryption.open_sealed(sealed, label, identity.name, self._key, identity.authority)
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
    """Ends a turn: sends the client's segments, encrypted for all parties, and saves the progress.

    With --hand_over=peer the segments stay in the client's folder and only the step is sent.

    Args:
      parts: state of the client's segments after the turn.
      step: number of the first step after the turn.
      spent: bytes of the turn so far.
      scores: test scores of the turn, or None if it was not evaluated.
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
    """Encrypts and sends the client's last hand-over again, also for parties that joined later."""
    if self._last is None or self._last[0] != hand_over.step:
      self._read(hand_over)
    self.check_fresh(hand_over)
    self._put(frames.encode(self._sealed_for_members()))

  def _put(self, request: bytes) -> None:
    frames.decode_json(self._call("Put", request, COMPUTING), frames.MAX_REQUEST_BYTES)

  def _sealed_for_members(self) -> Frame:
    """Returns the last hand-over, encrypted for all parties.

    With --hand_over=peer the frame holds only the step number: clients fetch the weights directly.
    """
    assert self._last is not None
    step, data = self._last
    if self._peer:
      return Frame(SEALED, step, {})
    answer = self._call("Members", frames.encode_json({}))
    content = frames.decode_json(answer, self._limit, members=fields.mapping_of(fields.text))
    receivers = {}
    for name, announcement in content["members"].items():
      with contextlib.suppress(SealError):  # parties without a valid certificate are left out
        receivers[name] = self._checked_key(name, announcement)
    return self._sealed(step, data, receivers)

  def _checked_key(self, name: str, announcement: str) -> X25519PublicKey:
    """Returns a party's public key from its announcement, after checking the certificate."""
    authority = self._identity.authority
    owner, public = encryption.read_announcement(announcement.encode(), authority, self._run)
    if owner != name:
      raise SealError(f"the public key that claims to be from {name!r} is from {owner!r}.")
    return public

  def _sealed(self, step: int, data: bytes, receivers: Mapping[str, X25519PublicKey]) -> Frame:
    label = self._label(step, self._identity.name)
    return encryption.seal(data, label, self._key, self.announcement, receivers)

  def _label(self, step: int, sender: str) -> Label:
    return Label(self._run, step, sender, UPDATES if self._updates else HAND_OVER)

  def methods(self) -> dict[str, Method]:
    """Returns the methods that peers call (--hand_over=peer), by name."""
    return {"Fetch": self._answer_peer}

  def _answer_peer(self, name: str, data: bytes) -> bytes:
    checks = {"step": fields.whole, "announcement": fields.text}
    request = frames.decode_json(data, frames.MAX_REQUEST_BYTES, **checks)
    step, receivers = request["step"], {name: self._checked_key(name, request["announcement"])}
    return frames.encode(self._sealed(step, self._read_file(step), receivers))

  def _fetch_from_peer(self, hand_over: HandOver) -> Frame:
    step, sender, address = hand_over
    request = frames.encode_json({"step": step, "announcement": self.announcement.decode()})
    try:
      with Caller(address, self._identity, self._limit, _PEER_PATIENCE, sender) as peer:
        return frames.decode(peer("Fetch", request, COMPUTING), self._limit)
    except LostError as error:
      raise AwayError(
        f"{sender}, who trained last and has the weights, cannot be reached at {address}; start it "
        "again with the same flags."
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
