"""A test authority: certificates for one server and its clients (X.509, EC P-256)."""

import contextlib
import datetime
import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedjax_norm.errors import UserError

AUTHORITY = "authority"
"""The name of the authority's file, which no party may have."""

_MOST_DAYS = 36_500  # dates end with the year 9999
_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
_HOST = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")
_LONGEST_HOST, _LONGEST_SUBJECT = 253, 64  # of DNS and of X.509


class Pair(NamedTuple):
  """A certificate and its private key, both PEM."""

  certificate: bytes
  key: bytes


def make(
  servers: Sequence[str], clients: Sequence[str], days: int = 365
) -> tuple[bytes, Pair, dict[str, Pair]]:
  """A new authority's certificate, the server's pair and the clients'.

  The authority's key is thrown away: nobody can make further certificates. A server's certificate
  does not let it act as a client, so that Bob cannot pass for an Alice; a client's lets it be
  connected to, by its name, as peers do.

  Args:
    servers: the hosts and addresses of the server; the first is its name.
    clients: the names of the clients.
    days: how long all are valid.

  Raises:
    UserError: a name or a number of days that cannot be.
  """
  if not 1 <= days <= _MOST_DAYS:
    raise UserError(f"{days} days of validity must be at least 1 and at most {_MOST_DAYS:,}.")
  hosts = [_host(name) for name in servers]
  for name in clients:
    if not _NAME.fullmatch(name):
      raise UserError(
        f"{name!r} cannot be a client's name; use up to 63 letters, digits and hyphens."
      )
  if len(servers[0]) > _LONGEST_SUBJECT:
    raise UserError(
      f"{servers[0]!r} is too long for the server's name; put one of up to {_LONGEST_SUBJECT} "
      "characters first."
    )
  names = [name.lower() for name in (AUTHORITY, *servers, *clients)]  # as some file systems do
  if twice := sorted(name for name in set(names) if names.count(name) > 1):
    raise UserError(
      f"two parties have the same name, {twice[0]!r}; give the server and every client a name of "
      f"its own, other than {AUTHORITY!r} and in more than upper and lower case."
    )
  key = ec.generate_private_key(ec.SECP256R1())
  subject = _name("fedjax_norm test authority")
  authority = (
    _builder(subject, subject, key, days)
    .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    .add_extension(_usage(signs_certificates=True), critical=True)
    .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    .sign(key, hashes.SHA256())
  )

  def pair(name: str, hosts: Sequence[x509.GeneralName], *purposes: x509.ObjectIdentifier) -> Pair:
    own = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
    of_authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    certificate = (
      _builder(_name(name), subject, own, days)
      .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
      .add_extension(_usage(signs_certificates=False), critical=True)
      .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
      .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
      .add_extension(identifier, critical=False)
      .add_extension(of_authority, critical=False)
      .sign(key, hashes.SHA256())
    )
    private = own.private_bytes(
      serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), private)

  serving, asking = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
  return (
    authority.public_bytes(serialization.Encoding.PEM),
    pair(servers[0], hosts, serving),
    {name: pair(name, [_host(name)], asking, serving) for name in clients},
  )


def _name(text: str) -> x509.Name:
  return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
  with contextlib.suppress(ValueError):
    if "%" not in text:  # behind it an IPv6 address may have anything
      return x509.IPAddress(ipaddress.ip_address(text))
  if not _HOST.fullmatch(text) or len(text) > _LONGEST_HOST:
    raise UserError(
      f"{text!r} is neither a host's name nor an address; correct the server's names."
    )
  return x509.DNSName(text)


def _builder(subject, issuer, key, days: int) -> x509.CertificateBuilder:
  now = datetime.datetime.now(datetime.UTC)
  return (
    x509.CertificateBuilder()
    .subject_name(subject)
    .issuer_name(issuer)
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ
    .not_valid_after(now + datetime.timedelta(days=days))
  )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
  signs = {"key_cert_sign": signs_certificates, "crl_sign": signs_certificates}
  enciphers = ("key_encipherment", "data_encipherment", "encipher_only", "decipher_only")
  unused = dict.fromkeys(("content_commitment", "key_agreement", *enciphers), False)
  return x509.KeyUsage(digital_signature=not signs_certificates, **signs, **unused)
