"""Makes certificates for one server and its clients, for tests (X.509, EC P-256)."""

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
"""Name of the authority's certificate file; no party can have this name."""

_MAX_DAYS = 36_500  # dates end with the year 9999
_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
_HOST = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")
_MAX_HOST, _MAX_SUBJECT = 253, 64  # limits of DNS and of X.509


class Pair(NamedTuple):
  """A certificate and its private key, both in PEM."""

  certificate: bytes
  key: bytes


def make(
  servers: Sequence[str], clients: Sequence[str], days: int = 365
) -> tuple[bytes, Pair, dict[str, Pair]]:
  """Makes a certificate authority, and certificates that it signs for a server and its clients.

  The authority's private key is discarded, so that nobody can issue further certificates. The
  server's certificate cannot be used as a client's, so that the server cannot pose as a client. A
  client's certificate can also be used as a server's, because peers connect to the client.

  Args:
    servers: host names and IP addresses of the server; the first is its name.
    clients: names of the clients.
    days: number of days for which the certificates are valid.

  Returns:
    The authority's certificate (PEM), the server's pair, and the clients' pairs by name.

  Raises:
    UserError: a name is impossible or used twice, or the number of days is out of range.
  """
  if not 1 <= days <= _MAX_DAYS:
    raise UserError(f"--days is {days}; it must be at least 1 and at most {_MAX_DAYS:,}.")
  hosts = [_host(name) for name in servers]
  for name in clients:
    if not _NAME.fullmatch(name):
      raise UserError(f"{name!r} cannot be a client's name; use 1 to 63 letters, digits, hyphens.")
  if len(servers[0]) > _MAX_SUBJECT:
    raise UserError(
      f"{servers[0]!r} is too long for the server's name; put a name of up to {_MAX_SUBJECT} "
      "characters first in --server."
    )
  # Names become file names, and some file systems ignore case.
  names = [name.lower() for name in (AUTHORITY, *servers, *clients)]
  if repeated := sorted(name for name in set(names) if names.count(name) > 1):
    raise UserError(
      f"two parties have the same name, {repeated[0]!r}; give the server and every client "
      f"different names, not {AUTHORITY!r}, that differ in more than upper and lower case."
    )
  key, subject = ec.generate_private_key(ec.SECP256R1()), _name("fedjax_norm test authority")
  authority = (
    _builder(subject, subject, key, days)
    .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    .add_extension(_usage(signs_certificates=True), critical=True)
    .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    .sign(key, hashes.SHA256())
  )

  def pair(name: str, hosts: Sequence[x509.GeneralName], *purposes: x509.ObjectIdentifier) -> Pair:
    party_key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(party_key.public_key())
    of_authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    certificate = (
      _builder(_name(name), subject, party_key, days)
      .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
      .add_extension(_usage(signs_certificates=False), critical=True)
      .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
      .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
      .add_extension(identifier, critical=False)
      .add_extension(of_authority, critical=False)
      .sign(key, hashes.SHA256())
    )
    private = party_key.private_bytes(
      serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), private)

  as_server, as_client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
  return (
    authority.public_bytes(serialization.Encoding.PEM),
    pair(servers[0], hosts, as_server),
    {name: pair(name, [_host(name)], as_client, as_server) for name in clients},
  )


def _name(text: str) -> x509.Name:
  return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
  with contextlib.suppress(ValueError):
    if "%" not in text:  # the zone of an IPv6 address, after %, can have any characters
      return x509.IPAddress(ipaddress.ip_address(text))
  if not _HOST.fullmatch(text) or len(text) > _MAX_HOST:
    raise UserError(f"{text!r} is neither a host name nor an IP address; correct --server.")
  return x509.DNSName(text)


def _builder(
  subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
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
