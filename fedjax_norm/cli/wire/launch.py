"""Starts the programs of split learning over a network, if the packages of ``wire`` exist."""

import importlib
from collections.abc import Callable
from typing import Any

from fedjax_norm.wire.protocol.required_packages import check_packages


def main_of(module: str) -> Callable[[Any], None]:
  """Returns a function that imports a module of this package only to run it, not for ``--help``."""

  def main(config: Any) -> None:
    check_packages()
    importlib.import_module(f"fedjax_norm.cli.wire.{module}").main(config)

  return main
