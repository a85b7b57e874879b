"""What all tests of the wire share."""

import pytest
from helpers.wire_world import simulated

from fedjax_norm.wire.client import training
from fedjax_norm.wire.server import run_requests


@pytest.fixture(scope="session")
def plain():
  """The variables that ``--step_by_step`` ends with in one process."""
  return simulated()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
  """Whoever waits for a turn asks again soon."""
  monkeypatch.setattr(run_requests, "_LONGEST_POLL", 0.05)
  monkeypatch.setattr(training, "PAUSE", 0.02)
