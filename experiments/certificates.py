"""A test authority: ``python -m experiments.certificates --clients=alice0,alice1``.

For trying out ``experiments.split_server`` and ``split_client``. Everyone gets the authority's
certificate and their own two files; a private key is its owner's alone.
"""

import sys
from pathlib import Path

from absl import app as absl_app
from absl import flags

from experiments.app import guard, parse_flags
from experiments.flags import define, parse
from experiments.wire_flags import CertificatesFlags
from fedjax_norm.errors import UserError
from fedjax_norm.wire import certificates, private


def main(config: CertificatesFlags) -> None:
  """Makes and writes them."""
  if not config.clients:
    raise UserError("nobody to certify; give the clients' names as --clients=alice0,alice1.")
  names, servers = config.clients.split(","), config.server.split(",")
  authority, server, clients = certificates.make(servers, names, config.days)
  folder = Path(config.output).expanduser()
  pairs = {servers[0]: server, **clients}
  public = folder / f"{certificates.AUTHORITY}.pem"
  there = [path for path in (public, *_files(folder, pairs)) if path.exists()]
  if there:
    raise UserError(f"{there[0]} is there already and is not overwritten; choose another --output.")
  folder.mkdir(parents=True, exist_ok=True)
  for name, pair in pairs.items():
    private.create(folder / f"{name}.key", pair.key)
    (folder / f"{name}.pem").write_bytes(pair.certificate)
  public.write_bytes(authority)
  print(f"{folder}: the authority, the server {servers[0]} and the clients {', '.join(names)}.")


def _files(folder: Path, names) -> list[Path]:
  return [folder / f"{name}.{end}" for name in names for end in ("key", "pem")]


def run(argv: list[str]) -> None:
  """Runs the binary on parsed flags and exits."""

  def work() -> None:
    if argv[1:]:
      raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
    main(parse(CertificatesFlags))

  sys.exit(guard(work))


if __name__ == "__main__":
  define(CertificatesFlags, flags.FLAGS)
  absl_app.run(run, flags_parser=parse_flags)
