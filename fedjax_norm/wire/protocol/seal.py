"""Hand-overs that only their receivers can read and only their sender can have made.

The Alices agree on keys (X25519) that their certificates' keys have signed, so that Bob, who passes
the public keys on and keeps or names what is sealed, can neither read nor make it nor put himself
in between. A hand-over is encrypted once under a key of its own (ChaCha20-Poly1305), and that key
once for each receiver under what the two agree on (HKDF-SHA256). What it is of is part of what is
authenticated: run, step, sender, receiver, kind.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import identity as identities
from fedjax_norm.wire.protocol.fields import LONGEST, text
from fedjax_norm.wire.protocol.frames import SEALED, Frame, FrameError, from_bytes, parse
from fedjax_norm.wire.protocol.identity import Identity

_KEY, _NONCE, _TAG = 32, 12, 16
_FOR = "for:"


class SealError(UserError):
  """A hand-over that its sender did not make for this receiver at this step."""


class Label(NamedTuple):
  """What a hand-over is of; authenticated with it.

  Attributes:
    run: which run.
    step: the first step that is not in it.
    sender: who trained last.
    kind: ``hand_over`` or ``updates``.
  """

  run: str
  step: int
  sender: str
  kind: str

  def bound(self, receiver: str) -> bytes:
    """The authenticated data; an empty receiver is that of the part that all share."""
    return _joined("hand-over", *self, receiver)


def _joined(*fields: str | int) -> bytes:
  """Fields as bytes that no other fields have."""
  return json.dumps(["fedjax_norm", *fields]).encode()


def make_announcement(identity: Identity, run: str, private: X25519PrivateKey) -> bytes:
  """A party's public key for a run, signed with its certificate's key."""
  public = private.public_key().public_bytes_raw().hex()
  signature = identities.sign(identity, _joined("announcement", run, identity.name, public))
  certificate = identity.certificate.decode()
  fields = {"certificate": certificate, "public": public, "signature": signature.hex()}
  return json.dumps(fields).encode()


def read_announcement(data: bytes, authority: bytes, run: str) -> tuple[str, X25519PublicKey]:
  """Whose public key an announcement gives, and the key.

  Args:
    data: of :func:`make_announcement`.
    authority: PEM.
    run: which it must be for.

  Raises:
    SealError: it is not signed by a client of the authority, or is for another run.
  """
  try:
    found = parse(data, certificate=text, public=text, signature=text)
    certificate = identities.vouched(found["certificate"].encode(), authority)
    name = identities.name_of(certificate)
    public = X25519PublicKey.from_public_bytes(bytes.fromhex(found["public"]))
    signature = bytes.fromhex(found["signature"])
  except ValueError as error:  # UserError and FrameError are of them
    raise SealError(f"a party's public key cannot be trusted: {error}") from error
  if not identities.signed(
    certificate, signature, _joined("announcement", run, name, found["public"])
  ):
    raise SealError(f"the public key that is said to be {name!r}'s is not signed by it.")
  return name, public


def seal(
  data: bytes,
  label: Label,
  private: X25519PrivateKey,
  announcement: bytes,
  receivers: Mapping[str, X25519PublicKey],
) -> Frame:
  """Seals a hand-over.

  Args:
    data: what is handed over.
    label: what it is of.
    private: the sender's.
    announcement: the sender's own, for receivers to know its key.
    receivers: the public keys of those who may read it, checked.
  """
  key = ChaCha20Poly1305.generate_key()
  # The key is used once, so that the nonce may be any.
  body = ChaCha20Poly1305(key).encrypt(bytes(_NONCE), data, label.bound(""))
  digest = hashlib.sha256(body).digest()
  boxes = {}
  for name, public in receivers.items():
    nonce, bound = os.urandom(_NONCE), label.bound(name)
    # With the digest, no receiver can put another body under the sender's name.
    box = ChaCha20Poly1305(_agreed(private, public, bound)).encrypt(nonce, key + digest, bound)
    boxes[_FOR + name] = from_bytes(nonce + box)
  parts = {"announcement": from_bytes(announcement), "body": from_bytes(body)}
  return Frame(SEALED, label.step, {**parts, **boxes})


def receivers_of(sealed: Frame) -> frozenset[str]:
  """Who can read a sealed hand-over."""
  return frozenset(name.removeprefix(_FOR) for name in sealed.tensors if name.startswith(_FOR))


def addressed(sealed: Frame, receiver: str) -> Frame:
  """A sealed hand-over with the box of one receiver alone."""
  names = ("announcement", "body", _FOR + receiver)
  return sealed._replace(tensors={name: sealed.tensors[name] for name in names})


def check_sealed(frame: Frame) -> Frame:
  """A sealed hand-over by its outside, which is all that Bob can check.

  Raises:
    FrameError: it is none.
  """
  tensors: Mapping[str, np.ndarray] = frame.tensors
  if frame.kind != SEALED or not {"announcement", "body"} <= set(tensors):
    raise FrameError("a message that should be a sealed hand-over is none.")
  if tensors["announcement"].size > LONGEST:
    raise FrameError(f"a sealed hand-over has an announcement of more than {LONGEST} bytes.")
  for name, array in tensors.items():
    size = _NONCE + _KEY + 32 + _TAG if name.startswith(_FOR) else None
    known = name in ("announcement", "body") or size
    if not known or array.dtype != np.uint8 or array.ndim != 1 or size not in (None, array.size):
      raise FrameError(f"a sealed hand-over holds {name!r}, which does not belong there.")
  return frame


def open_sealed(
  sealed: Frame, label: Label, receiver: str, private: X25519PrivateKey, authority: bytes
) -> bytes:
  """Opens a hand-over.

  Args:
    sealed: of :func:`seal`.
    label: what it has to be of; what it says itself is not asked.
    receiver: who opens it.
    private: the receiver's.
    authority: PEM.

  Raises:
    SealError: it is forged, damaged, of another step, or for somebody else.
  """
  refused = SealError(
    f"the hand-over of step {label.step} was refused: {label.sender!r} did not seal this for "
    f"{receiver!r} at that step of this run, so it is forged, replayed or meant for another."
  )
  check_sealed(sealed)
  name, public = read_announcement(sealed.tensors["announcement"].tobytes(), authority, label.run)
  if name != label.sender or sealed.step != label.step or receiver not in receivers_of(sealed):
    raise refused
  bound = label.bound(receiver)
  box, body = sealed.tensors[_FOR + receiver].tobytes(), sealed.tensors["body"].tobytes()
  try:
    inner = ChaCha20Poly1305(_agreed(private, public, bound))
    opened = inner.decrypt(box[:_NONCE], box[_NONCE:], bound)
    if opened[_KEY:] != hashlib.sha256(body).digest():
      raise refused
    return ChaCha20Poly1305(opened[:_KEY]).decrypt(bytes(_NONCE), body, label.bound(""))
  except InvalidTag:
    raise refused from None


def _agreed(private: X25519PrivateKey, public: X25519PublicKey, bound: bytes) -> bytes:
  """The key of two parties for one hand-over."""
  try:
    shared = private.exchange(public)
  except ValueError:
    raise SealError("a party's public key is a point of no use; it cannot be trusted.") from None
  return HKDF(algorithm=hashes.SHA256(), length=_KEY, salt=None, info=bound).derive(shared)
