"""Clients with permuted labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.relabel import relabel
from fedjax_norm.errors import UserError


@given(share=st.floats(0.01, 1), seed=st.integers(0, 99), classes=st.integers(2, 6))
@settings(max_examples=30)
def test_a_share_of_clients_shifts_all_classes_by_one_number(share, seed, classes):
  labels = np.arange(90) % classes
  division = partitions.make("iid", labels, 9, 0)
  relabelled = relabel(labels, division, classes, share, seed)
  assert relabelled.dtype == np.int32
  shifts = [
    set(((relabelled - labels) % classes)[partitions.client(division, k)].tolist())
    for k in range(9)
  ]
  assert all(len(shift) == 1 for shift in shifts)
  assert sum(shift != {0} for shift in shifts) == max(1, round(9 * share))
  np.testing.assert_array_equal(relabelled, relabel(labels, division, classes, share, seed))


def test_the_clients_and_their_shifts_are_random():
  labels = np.arange(400) % 10
  division = partitions.make("iid", labels, 40, 0)
  changes = [(relabel(labels, division, 10, 0.5, seed) - labels) % 10 for seed in range(3)]
  assert len(np.unique(changes[0])) > 5
  assert not np.array_equal(changes[0], changes[1])


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_shares_out_of_range_are_refused(share):
  with pytest.raises(UserError, match="--relabelled"):
    partitions.PartitionConfig(relabelled=share)
