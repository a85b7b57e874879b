"""Certificates and keys that are refused."""

import base64
import datetime
from types import SimpleNamespace

import pytest
from helpers.wire_world import identities

from fedjax_norm.errors import UserError
from fedjax_norm.wire.client.exchange_key import exchange_key
from fedjax_norm.wire.protocol import certificate_authority, identity, private_files


def load(folder, authority: bytes, certificate: bytes, key: bytes, mode: int = 0o600):
  """Writes the files and reads the identity."""
  for name, data in (("ca", authority), ("pem", certificate), ("key", key)):
    private_files.create(folder / name, data)
  (folder / "key").chmod(mode)
  return identity.load(*(str(folder / name) for name in ("ca", "pem", "key")))


def test_keys_of_one_party_belong_together(tmp_path):
  mine, other = identities()["alice0"], identities()["alice1"]
  with pytest.raises(ValueError, match="not the private key"):
    load(tmp_path, mine.authority, mine.certificate, other.key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_or_write_is_refused(tmp_path, mode):
  mine = identities()["localhost"]
  with pytest.raises(UserError, match=f"has mode {mode:04o}.*run chmod 600"):
    load(tmp_path, mine.authority, mine.certificate, mine.key, mode)
  (tmp_path / "key").chmod(0o400)
  assert identity.load(*(str(tmp_path / n) for n in ("ca", "pem", "key"))).name == "localhost"


def test_an_exchange_key_that_others_may_read_is_refused(tmp_path):
  key = exchange_key(tmp_path, "run")
  (tmp_path / "exchange.key").chmod(0o644)
  with pytest.raises(UserError, match=r"has mode 0644.*run chmod 600"):
    exchange_key(tmp_path, "run")
  (tmp_path / "exchange.key").chmod(0o600)
  assert exchange_key(tmp_path, "run").private_bytes_raw() == key.private_bytes_raw()


def changed(pem: bytes, old: str, new: str) -> bytes:
  """Returns a PEM file with some bytes of its content replaced."""
  first, *lines, last = pem.splitlines()
  content = base64.b64decode(b"".join(lines))
  assert bytes.fromhex(old) in content
  content = content.replace(bytes.fromhex(old), bytes.fromhex(new), 1)
  return b"\n".join((first, base64.b64encode(content), last))


VERSION = "a003020102", "a003020101"
CURVE = "2a8648ce3d030107", "2a8648ce3d030163"


@pytest.mark.parametrize(("which", "change"), [(0, VERSION), (1, VERSION), (1, CURVE), (2, CURVE)])
def test_unknown_versions_and_curves_are_refused(tmp_path, which, change):
  mine = identities()["alice0"]
  files = [mine.authority, mine.certificate, mine.key]
  files[which] = changed(files[which], *change)
  with pytest.raises(UserError, match="cannot be read as a certificate"):
    load(tmp_path, *files)
  if which == 1:
    with pytest.raises(UserError, match="not a client certificate of this authority"):
      identity.verify_client_certificate(files[1], mine.authority)


@pytest.mark.parametrize("days", [-40, 40])
@pytest.mark.parametrize("whose", ["party", "authority"])
def test_a_certificate_that_is_not_valid_now_is_refused(tmp_path, monkeypatch, days, whose):
  now = datetime.datetime.now(datetime.UTC)
  shifted = SimpleNamespace(now=lambda zone: now + datetime.timedelta(days=days))
  clock = SimpleNamespace(**{**vars(datetime), "datetime": shifted})
  with monkeypatch.context() as patch:
    patch.setattr(certificate_authority, "datetime", clock)
    authority, server, _ = certificate_authority.make(["localhost"], ["alice0"], days=30)
  if whose == "party":
    authority = identities()["localhost"].authority
  wrong = {"party": "pem", "authority": "ca"}[whose]
  with pytest.raises(UserError, match=rf"the certificate .*/{wrong} is valid from .* and not now"):
    load(tmp_path, authority, *server)
