"""Whether the packages of the extra ``wire`` are installed, for tests that can do without them."""

import pytest

from fedjax_norm.wire.protocol.required_packages import missing_packages

MISSING = missing_packages()


def require() -> None:
  """Skips the current test if a package is missing."""
  if MISSING:
    pytest.skip(f"needs the extra wire: {', '.join(MISSING)} not installed")
