"""Makes certificates for tests of split learning: ``python -m experiments.certificates``."""

import contextlib
from pathlib import Path

from fedjax_norm.cli.wire.options import CertificatesFlags
from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import certificate_authority, private_files


def main(config: CertificatesFlags) -> None:
  """Makes certificates and keys of a server and its clients, and writes them to --output."""
  if not config.clients:
    raise UserError("no clients are given; give their names as --clients=alice0,alice1.")
  names, servers = config.clients.split(","), config.server.split(",")
  authority, server, clients = certificate_authority.make(servers, names, config.days)
  folder = Path(config.output).expanduser()
  files = {folder / f"{certificate_authority.AUTHORITY}.pem": authority}
  for name, pair in {servers[0]: server, **clients}.items():
    files |= {folder / f"{name}.key": pair.key, folder / f"{name}.pem": pair.certificate}
  if existing := [path for path in files if path.exists()]:
    raise UserError(
      f"{existing[0]} already exists and is not overwritten; choose another --output."
    )
  folder.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as undo:
    for path, data in files.items():
      private_files.create(path, data)
      undo.callback(path.unlink)
      if path.suffix == ".pem":
        path.chmod(0o644)
    undo.pop_all()
  print(f"{folder}: the authority, the server {servers[0]} and the clients {', '.join(names)}.")
