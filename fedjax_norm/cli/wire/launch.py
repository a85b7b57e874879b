"""Starts the programs of split learning over a network, if the packages of ``wire`` exist."""

import importlib
from collections.abc import Callable
from typing import Any

from fedjax_norm.cli import app
from fedjax_norm.cli.wire.options import CertificatesFlags, ClientFlags, ServerFlags
from fedjax_norm.wire.protocol.required_packages import check_packages


def client() -> None:
  """Runs ``experiments.split_client``."""
  app.run(main_of("client"), ClientFlags)


def server() -> None:
  """Runs ``experiments.split_server``."""
  app.run(main_of("server"), ServerFlags)


def certificates() -> None:
  """Runs ``experiments.certificates``."""
  app.run_plain(main_of("certificates"), CertificatesFlags)


def main_of(module: str) -> Callable[[Any], None]:
  """Returns a function that imports a module of this package only to run it, not for ``--help``."""

  def main(config: Any) -> None:
    check_packages()
    importlib.import_module(f"fedjax_norm.cli.wire.{module}").main(config)

  return main
