"""Reads a party's certificate and private key, and checks the certificates of other parties."""

import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import NameOID

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import private_files

_UNREADABLE = (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm)


class Identity(NamedTuple):
  """The certificate and private key of a party.

  Attributes:
    name: common name of the certificate's subject.
    authority: the authority's certificate, which must have signed all other certificates, PEM.
    certificate: the party's certificate, PEM.
    key: the party's private key, PEM.
    files: paths of the certificate and the key, for libraries that only read files.
  """

  name: str
  authority: bytes
  certificate: bytes
  key: bytes
  files: tuple[Path, Path]


def load(authority: str, certificate: str, key: str) -> Identity:
  """Reads a party's certificate and private key, and the authority's certificate.

  Args:
    authority: PEM file of the authority's certificate.
    certificate: PEM file of the party's certificate.
    key: PEM file of the party's private key.

  Raises:
    UserError: a file cannot be read, the key does not match the certificate, a certificate is not
      valid now, or other users may read the key.
  """
  files = [Path(path).expanduser() for path in (authority, certificate, key)]
  texts = [_read(path) for path in files]
  try:
    authority_certificate = x509.load_pem_x509_certificate(texts[0])
  except _UNREADABLE as error:
    raise UserError(
      f"{authority} cannot be read as a certificate; give the authority's certificate as "
      "--authority."
    ) from error
  try:
    party_certificate = x509.load_pem_x509_certificate(texts[1])
    private = serialization.load_pem_private_key(texts[2], password=None)
    matching = private.public_key() == party_certificate.public_key()
  except _UNREADABLE as error:
    raise UserError(
      f"{certificate} and {key} cannot be read as a certificate and a private key; make them with "
      "experiments.certificates."
    ) from error
  if not matching:
    raise UserError(
      f"{key} is not the private key of {certificate}; give a certificate and a key that belong "
      "together."
    )
  for path, checked in ((authority, authority_certificate), (certificate, party_certificate)):
    first, last = checked.not_valid_before_utc, checked.not_valid_after_utc
    if not first <= datetime.datetime.now(datetime.UTC) <= last:
      raise UserError(
        f"the certificate {path} is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC "
        "and not now; correct the clock, or make new certificates with experiments.certificates."
      )
  private_files.check(files[2])
  return Identity(name_of(party_certificate), texts[0], texts[1], texts[2], (files[1], files[2]))


def load_client(authority: str, certificate: str, key: str) -> Identity:
  """Does :func:`load` for a client, and checks that the authority signed its certificate."""
  identity = load(authority, certificate, key)
  verify_client_certificate(identity.certificate, identity.authority)
  return identity


def _read(path: Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}); give a readable file.") from error


def name_of(certificate: x509.Certificate) -> str:
  """Returns the common name of a certificate's subject, or '' if it has none."""
  names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
  return str(names[0].value) if names else ""


def verify_client_certificate(certificate: bytes, authority: bytes) -> x509.Certificate:
  """Parses a client's PEM certificate; checks its dates and that the authority signed it."""
  try:
    parsed = x509.load_pem_x509_certificate(certificate)
    store = verification.Store([x509.load_pem_x509_certificate(authority)])
    verification.PolicyBuilder().store(store).build_client_verifier().verify(parsed, [])
  except (*_UNREADABLE, verification.VerificationError) as error:
    raise UserError(
      "a certificate is not a client certificate of this authority, or is not valid now; use one "
      "that experiments.certificates made in the same run as the authority's."
    ) from error
  return parsed


def sign(identity: Identity, data: bytes) -> bytes:
  """Returns a party's signature of ``data`` (ECDSA with SHA-256)."""
  key = serialization.load_pem_private_key(identity.key, password=None)
  if not isinstance(key, ec.EllipticCurvePrivateKey):
    raise UserError(
      "the private key is not an elliptic-curve key; make keys with experiments.certificates."
    )
  return key.sign(data, ec.ECDSA(hashes.SHA256()))


def verify_signature(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
  """Whether ``signature`` is the signature of ``data`` by the owner of a certificate."""
  key = certificate.public_key()
  if not isinstance(key, ec.EllipticCurvePublicKey):
    return False
  try:
    key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
  except InvalidSignature:
    return False
  return True
