"""Exact integer shares and the stratified split made with them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data import train_test_split


@settings(max_examples=100)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers(0, 10**6))
def test_apportioned_shares_sum_and_stay_within_one(weights, total):
  shares = train_test_split.apportion(np.asarray(weights), total)
  assert shares.sum() == total
  if sum(weights) > 0:
    exact = total * np.asarray(weights) / sum(weights)
    assert np.abs(shares - exact).max() < 1 + 1e-6


def test_a_stratified_split_is_exact_and_disjoint():
  strata = np.repeat([0, 1, 2], [50, 30, 20])
  train, test = train_test_split.stratified_split(strata, 20, 3)
  np.testing.assert_array_equal(np.bincount(strata[test]), [10, 6, 4])
  np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(100))
  assert not np.array_equal(test, train_test_split.stratified_split(strata, 20, 4)[1])


def test_every_stratum_keeps_a_training_example():
  strata = np.concatenate([np.arange(6), np.full(14, 9)])
  train, test = train_test_split.stratified_split(strata, 15, 0)
  assert set(strata[train]) == set(strata)
  assert len(test) > 0
