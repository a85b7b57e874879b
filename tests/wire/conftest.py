"""Fixtures of all tests of split learning over a network."""

import pytest


@pytest.fixture(scope="session")
def plain():
  """The final variables of ``--step_by_step`` in one process."""
  from helpers.wire_world import simulated

  return simulated()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
  """Parties that wait ask again soon."""
  from fedjax_norm.wire.client import training
  from fedjax_norm.wire.server import run_requests

  monkeypatch.setattr(run_requests, "_LONGEST_POLL", 0.05)
  monkeypatch.setattr(training, "PAUSE", 0.02)
