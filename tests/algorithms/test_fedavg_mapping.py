"""FedAvg under every mapping, and its compiled intervals of rounds."""

import jax
import numpy as np
import pytest
from helpers.accelerators import require_host_devices
from helpers.fedavg_world import HEAVY, OPTIONS, RATES, SCAN, SOME, close_runs, same_bits, slow
from helpers.reference_fedavg import close, distance
from helpers.settings import configure

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.fedavg import FedAvgConfig
from fedjax_norm.training.placement.device_arrays import placer

# With augmentation and dropout, which ``test_contract.py`` does not cover.
MAPPINGS = {
  "vmap in chunks of 2": {"backend": "vmap", "chunk": 2},
  "shard_map of vmap": {"backend": "shard_map", "chunk": 0},
  "pmap": {"backend": "pmap"},
}


# Clients take 1 to 3 steps, and three cannot be divided evenly over two devices or into chunks of
# two: each mapping arranges them in its own order, with a padding client.
EPOCH = configure(FedAvgConfig, HEAVY, local_epochs=1, client_momentum="local")
THREE = np.array([[2, 0, 1], [3, 1, 0], [1, 2, 3]])


def by_mapping(world, mapping=None):
  return world.fast("bn", EPOCH, mapping, augment=True, dropout=0.5)


@pytest.mark.parametrize("case", MAPPINGS)
def test_mappings_agree(world, case):
  if case == "pmap":
    require_host_devices()
  fast = by_mapping(world, client_mapping.create(num_clients=3, **MAPPINGS[case]))
  steps = EPOCH.steps(fast.data.sizes)
  slots = [np.append(cohort, -1)[fast.mapping.arrange(steps[cohort])] for cohort in THREE]
  assert np.shape(slots) == (3, 3 + (fast.mapping.chunk > 0))
  close_runs(fast.run(slots), by_mapping(world).run(THREE))


def test_the_order_of_a_cohort_changes_nothing_and_random_draws_equal_the_reference(world):
  fast = by_mapping(world)
  run = fast.run(THREE)
  close_runs(run, fast.run(THREE[:, ::-1]))
  close(run[0].variables["params"], slow(fast, THREE).params)


def test_augmentation_and_dropout_change_the_result(world):
  plain = slow(world.fast("bn", EPOCH)).params
  for fields in ({"dropout": 0.5}, {"augment": True}):
    assert distance(slow(world.fast("bn", EPOCH, **fields)).params, plain) > 1e-3


@pytest.mark.parametrize("backend", ["scan", "shard_map"])
def test_intervals_neither_recompile_nor_transfer_to_the_host(world, backend):
  mapping = client_mapping.create(backend, num_clients=2)
  fast = world.fast("bn", OPTIONS["momentum local"], mapping)
  compiled = fast.interval._cache_size()  # number of programs of other tests
  states = tuple(map(placer(mapping), fast.begin()))
  calls = [
    fast.arguments(SOME, RATES, 0),
    fast.arguments(SOME[::-1], [0.01] * 3, 3, 1, 3),
    fast.arguments([[0, 1]] * 3, [0.5] * 3, 5, 0, 1),
  ]
  for arguments in calls:
    with jax.transfer_guard("disallow"):
      *states, _ = fast.interval(*states, *arguments)
  # A cohort of two is one more program, however often it runs.
  assert fast.interval._cache_size() <= compiled + 1
  # The guard does detect a number from the host.
  with jax.transfer_guard("disallow"), pytest.raises(Exception, match="isallowed"):
    fast.interval(*states, *calls[0][:5], 0, *calls[0][6:])


def test_an_interval_can_run_some_rounds_of_its_window(world):
  fast = world.fast("bn", OPTIONS["momentum local"])
  whole = fast.run()
  # Rounds 0 and 1 of the window 0 to 2, then the second round of the window 1 to 3.
  states = tuple(map(placer(SCAN), fast.begin()))
  *states, metrics = fast.interval(*states, *fast.arguments(SOME, RATES, 0, 0, 2))
  _, *later = fast.arguments([SOME[1], SOME[2], SOME[0]], [9.0, RATES[2], 9.0], 1, 1, 2)
  same_bits(jax.tree.map(np.asarray, fast.interval(*states, metrics, *later)), whole)
