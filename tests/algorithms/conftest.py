"""A small federated data set that several tests of algorithms share."""

import pytest
from helpers.fedavg_world import World, make_world


@pytest.fixture(scope="session")
def world(tiny_source, tiny_net) -> World:
  """Compiles each setting of FedAvg once for all tests."""
  return make_world(tiny_source, tiny_net)
