"""Skips the tests that need the packages of the ``wire`` extra if these are not installed."""

from pathlib import Path

import pytest

from fedjax_norm.wire.protocol.required_packages import missing_packages

MISSING = missing_packages()
_REASON = f"needs the extra wire: {', '.join(MISSING)} not installed"


def require() -> None:
  """Skips the current test if a package is missing."""
  if MISSING:
    pytest.skip(_REASON)


def needed_by(path: Path) -> bool:
  """Whether a test file imports the packages."""
  return path.parent.name == "wire" or path.name.startswith("test_wire")


class SkippedModule(pytest.Module):
  """A test file that is skipped without being imported."""

  def collect(self):
    pytest.skip(_REASON, allow_module_level=True)
