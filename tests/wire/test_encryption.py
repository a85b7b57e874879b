"""Only receivers can read a hand-over, and only its sender can make it."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from helpers.wire_world import NAMES, identities

from fedjax_norm.wire.protocol import encryption, frames
from fedjax_norm.wire.protocol.encryption import Label, SealError

KEYS = {name: X25519PrivateKey.generate() for name in (*NAMES, "carol")}
PUBLIC = {name: key.public_key() for name, key in KEYS.items()}
LABEL = Label("run", 5, "alice0", "hand_over")
DATA = b"weights" * 9


def announced(name: str, run: str = "run", key: X25519PrivateKey | None = None) -> bytes:
  return encryption.make_announcement(identities()[name], run, key or KEYS[name])


def sealed(label: Label = LABEL, to=NAMES) -> frames.Frame:
  private, receivers = KEYS[label.sender], {name: PUBLIC[name] for name in to}
  return encryption.seal(DATA, label, private, announced(label.sender), receivers)


def opened(frame: frames.Frame, label: Label = LABEL, receiver="alice1", key=None) -> bytes:
  authority = identities()["alice0"].authority
  return encryption.open_sealed(frame, label, receiver, key or KEYS[receiver], authority)


def test_every_receiver_opens_what_others_cannot():
  frame = frames.decode(frames.encode(sealed()))
  assert encryption.receivers_of(frame) == {*NAMES}
  assert (
    opened(frame) == opened(encryption.for_receiver(frame, "alice0"), receiver="alice0") == DATA
  )
  assert DATA not in frames.encode(frame)
  for receiver, key in (("carol", None), ("alice1", KEYS["carol"])):
    with pytest.raises(SealError, match="forged, replayed or meant for another"):
      opened(frame, receiver=receiver, key=key)


@pytest.mark.parametrize("field", Label._fields)
def test_the_label_is_authenticated(field):
  other = {"run": "other", "step": 6, "sender": "alice1", "kind": "updates"}[field]
  label = LABEL._replace(**{field: other})
  for made, wanted in ((LABEL, label), (label, LABEL)):
    with pytest.raises(SealError):
      opened(sealed(made), wanted)
  # Another step on the outside does not help.
  with pytest.raises(SealError):
    opened(sealed()._replace(step=6), LABEL._replace(step=6))


@pytest.mark.parametrize("name", ["body", "for:alice1", "announcement"])
def test_no_bit_can_be_changed(name):
  tensor = bytearray(sealed().tensors[name].tobytes())
  tensor[len(tensor) // 2] ^= 1
  frame = sealed()
  with pytest.raises(SealError):
    opened(frame._replace(tensors={**frame.tensors, name: frames.from_bytes(bytes(tensor))}))


def test_the_server_cannot_be_a_man_in_the_middle():
  authority, fake = identities()["alice0"].authority, X25519PrivateKey.generate()
  forged = announced("alice0").replace(
    PUBLIC["alice0"].public_bytes_raw().hex().encode(),
    fake.public_key().public_bytes_raw().hex().encode(),
  )
  with pytest.raises(SealError, match="not signed"):
    encryption.read_announcement(forged, authority, "run")
  with pytest.raises(SealError, match="not signed"):  # of another run
    encryption.read_announcement(announced("alice0", "before"), authority, "run")
  # The server's certificate is not a client's.
  with pytest.raises(SealError, match="not a client certificate of this authority"):
    encryption.read_announcement(announced("localhost", key=fake), authority, "run")
  mine = announced("carol", key=fake)  # the certificate of a third party, not of the sender
  frame = encryption.seal(DATA, LABEL, fake, mine, {"alice1": PUBLIC["alice1"]})
  with pytest.raises(SealError, match="forged"):
    opened(frame)
  with pytest.raises(SealError, match="cannot be trusted"):
    encryption.read_announcement(b"{}", authority, "run")


def test_a_receiver_cannot_forge_for_another():
  """A receiver knows the key of the body, but cannot change the body for other receivers."""
  frame, bound = sealed(), LABEL.associated_data("alice1")
  box = frame.tensors["for:alice1"].tobytes()
  shared = encryption._shared_key(KEYS["alice1"], PUBLIC["alice0"], bound)
  inner = ChaCha20Poly1305(shared).decrypt(box[:12], box[12:], bound)
  body = ChaCha20Poly1305(inner[:32]).encrypt(bytes(12), b"forged", LABEL.associated_data(""))
  assert inner[32:] == hashlib.sha256(frame.tensors["body"].tobytes()).digest()
  forged = frame._replace(tensors={**frame.tensors, "body": frames.from_bytes(body)})
  with pytest.raises(SealError, match="forged"):
    opened(forged, receiver="alice0")
