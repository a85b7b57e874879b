"""Checks that the packages of the extra ``wire`` are installed."""

import importlib.util

from fedjax_norm.errors import UserError

PACKAGES = {"cryptography": "cryptography", "grpc": "grpcio"}
"""Modules that ``fedjax_norm.wire`` imports -> names of the packages that contain them."""


def missing_packages() -> list[str]:
  """Returns the packages of the ``wire`` extra that are not installed."""
  return [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]


def check_packages() -> None:
  """Raises ``UserError`` if a package of the ``wire`` extra is not installed."""
  if missing := missing_packages():
    raise UserError(
      f"split learning over a network needs {' and '.join(missing)}, which this Python does not "
      'have; install the extra with: pip install -e ".[wire]"'
    )
