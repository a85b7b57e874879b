"""Starts the binaries of split learning over a network, if the packages of the extra are there."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from fedjax_norm.cli import app
from fedjax_norm.cli.wire.options import CertificatesFlags, ClientFlags, ServerFlags
from fedjax_norm.errors import UserError

PACKAGES = {"cryptography": "cryptography", "grpc": "grpcio"}
"""Modules of the ``wire`` extra and the packages that contain them."""


def check_packages() -> None:
  """Checks that the packages of the ``wire`` extra are installed.

  Raises:
    UserError: a package is missing.
  """
  missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
  if missing:
    raise UserError(
      f"split learning over a network needs {' and '.join(missing)}, not installed here; install "
      'the extra with: pip install -e ".[wire]"'
    )


def client() -> None:
  """Runs ``experiments.split_client``."""
  app.run(_main("client"), ClientFlags)


def server() -> None:
  """Runs ``experiments.split_server``."""
  app.run(_main("server"), ServerFlags)


def certificates() -> None:
  """Runs ``experiments.certificates``."""
  app.run_plain(_main("certificates"), CertificatesFlags)


def _main(module: str) -> Callable[[Any], None]:
  """Returns a function that imports a module and runs it; ``--help`` needs no import."""

  def main(config: Any) -> None:
    check_packages()
    importlib.import_module(f"fedjax_norm.cli.wire.{module}").main(config)

  return main
