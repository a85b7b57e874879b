"""A test authority: ``python -m experiments.certificates --clients=alice0,alice1``.

For trying out ``experiments.split_server`` and ``split_client``. Everyone gets the authority's
certificate and their own two files; a private key is its owner's alone.
"""

import contextlib
from pathlib import Path

from fedjax_norm.cli.app import run_plain
from fedjax_norm.cli.wire.options import CertificatesFlags
from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import certificates, private_files


def main(config: CertificatesFlags) -> None:
  """Makes and writes them."""
  if not config.clients:
    raise UserError("nobody to certify; give the clients' names as --clients=alice0,alice1.")
  names, servers = config.clients.split(","), config.server.split(",")
  authority, server, clients = certificates.make(servers, names, config.days)
  folder = Path(config.output).expanduser()
  files = {folder / f"{certificates.AUTHORITY}.pem": authority}
  for name, pair in {servers[0]: server, **clients}.items():
    files |= {folder / f"{name}.key": pair.key, folder / f"{name}.pem": pair.certificate}
  if there := [path for path in files if path.exists()]:
    raise UserError(f"{there[0]} is there already and is not overwritten; choose another --output.")
  folder.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as undo:
    for path, data in files.items():
      private_files.create(path, data)
      undo.callback(path.unlink)
      if path.suffix == ".pem":
        path.chmod(0o644)
    undo.pop_all()
  print(f"{folder}: the authority, the server {servers[0]} and the clients {', '.join(names)}.")


def launch() -> None:
  """Runs the binary on the command line's flags, and exits."""
  run_plain(main, CertificatesFlags)
