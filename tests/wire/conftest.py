"""What all tests of the wire share."""

import pytest
from wire_world import simulated

from fedjax_norm.wire import alice as alices
from fedjax_norm.wire import requests


@pytest.fixture(scope="session")
def plain():
  """The variables that ``--step_by_step`` ends with in one process."""
  return simulated()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
  """Whoever waits for a turn asks again soon."""
  monkeypatch.setattr(requests, "_LONGEST_POLL", 0.05)
  monkeypatch.setattr(alices, "PAUSE", 0.02)
