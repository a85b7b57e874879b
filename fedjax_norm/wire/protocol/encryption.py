"""Encrypts (seals) hand-overs: only the receivers can read one, and only its sender can make it.

Each client announces a public key (X25519), signed with the private key of its certificate. The
server forwards the public keys and stores or announces hand-overs, but it can neither read nor
forge a hand-over, nor act as a man in the middle. A hand-over is encrypted once with a random key
(ChaCha20-Poly1305). This key is encrypted for each receiver with a key that sender and receiver
share (HKDF-SHA256). The run, step, sender, receiver and kind are authenticated as well.
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
from fedjax_norm.wire.protocol.fields import MAX_TEXT_BYTES, text
from fedjax_norm.wire.protocol.frames import SEALED, Frame, FrameError, from_bytes, parse_json
from fedjax_norm.wire.protocol.identity import Identity

_KEY, _NONCE, _TAG = 32, 12, 16
_FOR = "for:"


class SealError(UserError):
  """A hand-over was not made by its named sender for this receiver and step of the run."""


class Label(NamedTuple):
  """The run, step, sender and kind of a hand-over, authenticated together with its weights.

  Attributes:
    run: name of the run.
    step: number of the first step after the training of the weights.
    sender: name of the client that trained last.
    kind: ``hand_over`` (weights) or ``updates`` (differences from initial weights).
  """

  run: str
  step: int
  sender: str
  kind: str

  def associated_data(self, receiver: str) -> bytes:
    """Returns the bytes authenticated with a receiver's encrypted key, or for '' with the body."""
    return _encode_fields("hand-over", *self, receiver)


def _encode_fields(*fields: str | int) -> bytes:
  """Returns bytes that are different for different fields."""
  return json.dumps(["fedjax_norm", *fields]).encode()


def make_announcement(identity: Identity, run: str, private: X25519PrivateKey) -> bytes:
  """Returns JSON with a party's public key for a run, its signature and the party's certificate."""
  public = private.public_key().public_bytes_raw().hex()
  signature = identities.sign(identity, _encode_fields("announcement", run, identity.name, public))
  certificate = identity.certificate.decode()
  fields = {"certificate": certificate, "public": public, "signature": signature.hex()}
  return json.dumps(fields).encode()


def read_announcement(data: bytes, authority: bytes, run: str) -> tuple[str, X25519PublicKey]:
  """Returns the party's name and public key from an announcement, after checking its signature.

  Raises:
    SealError: no client of the authority signed the announcement, or it is for another run.
  """
  try:
    content = parse_json(data, certificate=text, public=text, signature=text)
    certificate = identities.verify_client_certificate(content["certificate"].encode(), authority)
    name = identities.name_of(certificate)
    public = X25519PublicKey.from_public_bytes(bytes.fromhex(content["public"]))
    signature = bytes.fromhex(content["signature"])
  except ValueError as error:  # includes UserError and FrameError
    raise SealError(f"a party's public key cannot be trusted: {error}") from error
  signed = _encode_fields("announcement", run, name, content["public"])
  if not identities.verify_signature(certificate, signature, signed):
    raise SealError(f"the public key that claims to be from {name!r} is not signed by {name!r}.")
  return name, public


def seal(
  data: bytes,
  label: Label,
  private: X25519PrivateKey,
  announcement: bytes,
  receivers: Mapping[str, X25519PublicKey],
) -> Frame:
  """Returns an encrypted hand-over.

  Args:
    data: bytes of the hand-over.
    label: run, step, sender and kind of the hand-over.
    private: the sender's private key.
    announcement: the sender's announcement, from which receivers read the public key.
    receivers: checked public keys of the receivers by name.
  """
  key = ChaCha20Poly1305.generate_key()
  # Each key encrypts once, so that a constant nonce is safe.
  body = ChaCha20Poly1305(key).encrypt(bytes(_NONCE), data, label.associated_data(""))
  digest = hashlib.sha256(body).digest()
  boxes = {}
  for name, public in receivers.items():
    nonce, associated = os.urandom(_NONCE), label.associated_data(name)
    # The digest prevents a receiver from sending another body under the sender's name.
    cipher = ChaCha20Poly1305(_shared_key(private, public, associated))
    boxes[_FOR + name] = from_bytes(nonce + cipher.encrypt(nonce, key + digest, associated))
  parts = {"announcement": from_bytes(announcement), "body": from_bytes(body)}
  return Frame(SEALED, label.step, {**parts, **boxes})


def receivers_of(sealed: Frame) -> frozenset[str]:
  """Returns the names of the parties that can decrypt a sealed hand-over."""
  return frozenset(name.removeprefix(_FOR) for name in sealed.tensors if name.startswith(_FOR))


def for_receiver(sealed: Frame, receiver: str) -> Frame:
  """Returns a sealed hand-over with the encrypted key of one receiver only."""
  names = ("announcement", "body", _FOR + receiver)
  return sealed._replace(tensors={name: sealed.tensors[name] for name in names})


def check_sealed(frame: Frame) -> Frame:
  """Returns a frame if it has the form of a sealed hand-over; the server cannot check its content.

  Other frames raise ``FrameError``.
  """
  tensors: Mapping[str, np.ndarray] = frame.tensors
  if frame.kind != SEALED or not {"announcement", "body"} <= set(tensors):
    raise FrameError("a message that should be a sealed hand-over is not one.")
  if tensors["announcement"].size > MAX_TEXT_BYTES:
    raise FrameError(f"a sealed hand-over has an announcement of more than {MAX_TEXT_BYTES} bytes.")
  for name, array in tensors.items():
    size = _NONCE + _KEY + 32 + _TAG if name.startswith(_FOR) else None
    known = name in ("announcement", "body") or size
    if not known or array.dtype != np.uint8 or array.ndim != 1 or size not in (None, array.size):
      raise FrameError(f"a sealed hand-over contains {name!r}, which does not belong there.")
  return frame


def open_sealed(
  sealed: Frame, label: Label, receiver: str, private: X25519PrivateKey, authority: bytes
) -> bytes:
  """Returns the decrypted bytes of a hand-over.

  Args:
    sealed: result of :func:`seal`.
    label: the expected run, step, sender and kind, which the hand-over must have.
    receiver: name of the party that decrypts.
    private: the receiver's private key.
    authority: the authority's certificate, PEM.

  Raises:
    SealError: the hand-over is forged, damaged, of another step, or for another receiver.
  """
  refused = SealError(
    f"the hand-over of step {label.step} was refused: {label.sender!r} did not seal it for "
    f"{receiver!r} at that step of this run, so it is forged, replayed or meant for another "
    "receiver."
  )
  check_sealed(sealed)
  name, public = read_announcement(sealed.tensors["announcement"].tobytes(), authority, label.run)
  if name != label.sender or sealed.step != label.step or receiver not in receivers_of(sealed):
    raise refused
  associated = label.associated_data(receiver)
  box, body = sealed.tensors[_FOR + receiver].tobytes(), sealed.tensors["body"].tobytes()
  try:
    cipher = ChaCha20Poly1305(_shared_key(private, public, associated))
    key_and_digest = cipher.decrypt(box[:_NONCE], box[_NONCE:], associated)
    key, digest = key_and_digest[:_KEY], key_and_digest[_KEY:]
    if digest != hashlib.sha256(body).digest():
      raise refused
    return ChaCha20Poly1305(key).decrypt(bytes(_NONCE), body, label.associated_data(""))
  except InvalidTag:
    raise refused from None


def _shared_key(private: X25519PrivateKey, public: X25519PublicKey, associated: bytes) -> bytes:
  """Returns the key that only the owners of the two key pairs can derive, for one hand-over."""
  try:
    shared = private.exchange(public)
  except ValueError:
    raise SealError("a party's public key is unusable (weak); it cannot be trusted.") from None
  return HKDF(algorithm=hashes.SHA256(), length=_KEY, salt=None, info=associated).derive(shared)
