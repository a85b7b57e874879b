"""A party's private key for sealed hand-overs, stored in its folder."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import private_files

_FILE = "exchange.key"


def exchange_key(folder: Path, run: str) -> X25519PrivateKey:
  """Returns a party's private key for a run; writes a new one if the folder has none."""
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
      f"{path} is damaged; restore it, or begin a new run with another --workdir on all sides."
    ) from error
  if key_run != run.encode():
    raise UserError(
      f"{folder} belongs to another run than the server's current one; pass another --workdir, or "
      "start the server with the --workdir of that run."
    )
  return key
