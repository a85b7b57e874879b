"""Skips the test files that import a package which is not always installed."""

import pytest

_OPTIONAL = {"torch": "PyTorch", "grpc": "the extra wire", "cryptography": "the extra wire"}


class Module(pytest.Module):
  """A test file that is skipped if an optional package is missing."""

  def collect(self):
    try:
      return super().collect()
    except self.CollectError as error:
      missing = getattr(error.__cause__, "name", None)
      if isinstance(error.__cause__, ModuleNotFoundError) and missing in _OPTIONAL:
        pytest.skip(f"needs {_OPTIONAL[missing]}: {missing} is not installed")
      raise
