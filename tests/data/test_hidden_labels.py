"""Hidden labels: their number per client, and that they depend on the seed alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.hidden_labels import HIDDEN_LABEL, hide_labels
from fedjax_norm.errors import UserError

LABELS = np.arange(200) % 5


def divide(clients=7, seed=0):
  return partitions.make("quantity", LABELS, clients, seed, alpha=0.5)


@given(share=st.floats(0.01, 0.99), seed=st.integers(0, 99), clients=st.integers(1, 20))
@settings(max_examples=30)
def test_each_client_knows_its_share_and_at_least_one_label(share, seed, clients):
  division = divide(clients, seed)
  labels = hide_labels(LABELS, division, share, seed)
  known = labels != HIDDEN_LABEL
  np.testing.assert_array_equal(labels[known], LABELS[known])
  for k in range(clients):
    known_k = known[partitions.client(division, k)]
    assert known_k.sum() == max(1, round(share * len(known_k)))


def test_hidden_labels_depend_on_the_seed_and_all_examples_are_equally_likely():
  division = divide()
  one = hide_labels(LABELS, division, 0.3, 1)
  np.testing.assert_array_equal(one, hide_labels(LABELS, division, 0.3, 1))
  assert (one != hide_labels(LABELS, division, 0.3, 2)).any()
  times = sum(hide_labels(LABELS, division, 0.3, seed) != HIDDEN_LABEL for seed in range(300))
  large = np.diff(division.offsets)[partitions.owners(division)] > 20
  assert times[large].min() > 0.3 * 300 / 2
  assert times[large].max() < 0.3 * 300 * 1.6


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_hides_nothing_or_all_is_refused(share):
  with pytest.raises(UserError, match="between 0 and 1"):
    hide_labels(LABELS, divide(), share, 0)


def test_labels_of_another_partition_are_refused():
  with pytest.raises(UserError, match="the labels that were partitioned"):
    hide_labels(LABELS[:-1], divide(), 0.5, 0)
