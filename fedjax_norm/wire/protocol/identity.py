"""Who a party is: its certificate, and those of others that the same authority vouches for."""

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
  """What a party proves who it is with, all PEM.

  Attributes:
    name: of its certificate's subject.
    authority: the certificate that all others hang on.
    certificate: its own.
    key: its private one.
    files: where certificate and key lie, for what reads them from there alone.
  """

  name: str
  authority: bytes
  certificate: bytes
  key: bytes
  files: tuple[Path, Path]


def load(authority: str, certificate: str, key: str) -> Identity:
  """Reads an identity.

  Args:
    authority: the authority's file.
    certificate: the file of the party's own certificate.
    key: the file of its private key.

  Raises:
    UserError: a file cannot be read, they do not belong together, a certificate is out of date, or
      others may read the key.
  """
  files = [Path(path).expanduser() for path in (authority, certificate, key)]
  texts = [_read(path) for path in files]
  try:
    vouching = x509.load_pem_x509_certificate(texts[0])
  except _UNREADABLE as error:
    raise UserError(
      f"{authority} does not read as a certificate; give the authority's as --authority."
    ) from error
  try:
    held = x509.load_pem_x509_certificate(texts[1])
    secret = serialization.load_pem_private_key(texts[2], password=None)
    matching = secret.public_key() == held.public_key()
  except _UNREADABLE as error:
    raise UserError(
      f"{certificate} and {key} do not read as a certificate and its private key; make them with "
      "experiments.certificates."
    ) from error
  if not matching:
    raise UserError(f"{key} is not the private key of {certificate}; give the two of one party.")
  for path, found in ((authority, vouching), (certificate, held)):
    _check_dates(path, found)
  private_files.check(files[2])
  return Identity(name_of(held), texts[0], texts[1], texts[2], (files[1], files[2]))


def _check_dates(path: str, certificate: x509.Certificate) -> None:
  """Refuses a certificate that is not valid now."""
  first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
  if not first <= datetime.datetime.now(datetime.UTC) <= last:
    raise UserError(
      f"the certificate {path} is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC "
      "and not now; correct the clock, or make new certificates with experiments.certificates."
    )


def load_client(authority: str, certificate: str, key: str) -> Identity:
  """Reads a client's identity, which the authority must vouch for (see :func:`load`)."""
  identity = load(authority, certificate, key)
  vouched(identity.certificate, identity.authority)
  return identity


def _read(path: Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}); give a file of yours.") from error


def name_of(certificate: x509.Certificate) -> str:
  """The common name of a certificate's subject."""
  names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
  return str(names[0].value) if names else ""


def vouched(certificate: bytes, authority: bytes) -> x509.Certificate:
  """A client's certificate, checked.

  Args:
    certificate: PEM.
    authority: PEM.

  Raises:
    UserError: the authority has not signed it, not for a client, or not for today.
  """
  try:
    found = x509.load_pem_x509_certificate(certificate)
    store = verification.Store([x509.load_pem_x509_certificate(authority)])
    verification.PolicyBuilder().store(store).build_client_verifier().verify(found, [])
  except (*_UNREADABLE, verification.VerificationError) as error:
    raise UserError(
      "a certificate is no client's of this authority, or is out of date; use one that "
      "experiments.certificates made together with the authority's."
    ) from error
  return found


def sign(identity: Identity, data: bytes) -> bytes:
  """A party's signature (ECDSA with SHA-256)."""
  key = serialization.load_pem_private_key(identity.key, password=None)
  if not isinstance(key, ec.EllipticCurvePrivateKey):
    raise UserError("the private key is of no elliptic curve; use experiments.certificates.")
  return key.sign(data, ec.ECDSA(hashes.SHA256()))


def signed(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
  """Whether a signature is that of a certificate's owner."""
  key = certificate.public_key()
  if not isinstance(key, ec.EllipticCurvePublicKey):
    return False
  try:
    key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
  except InvalidSignature:
    return False
  return True
