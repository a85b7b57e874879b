"""A party's private key for opening and sealing (encrypted) hand-overs, stored in its folder."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import private_files

_FILE = "exchange.key"


def exchange_key(folder: Path, run: str) -> X25519PrivateKey:
  """Returns the private key in a party's folder; if the folder has none, makes one for the run."""
  path = folder / _FILE
  if not path.exists():
    key = X25519PrivateKey.generate()
    private_files.replace(path, f"{run} {key.private_bytes_raw().hex()}".encode())
    return key
  private_files.check(path)
  key_run, _, text = path.read_bytes().partition(b" ")
  try:
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(text.decode()))
  except ValueError as error:
    raise UserError(
      f"{path} is damaged; restore it, or begin a new run: give the server and all clients a new "
      "--workdir."
    ) from error
  if key_run != run.encode():
    raise UserError(
      f"{folder} belongs to another run than the server's current one; start this party with a new "
      "--workdir, or the server with the --workdir of that run."
    )
  return key
