"""Shares of classes by region, against loops and by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data.partitions import label_share


def test_shares_by_hand():
  # Two regions of 10 and 40 examples; no region has the third class.
  counts = np.array([[8, 2, 0], [8, 32, 0]])
  np.testing.assert_allclose(label_share.raw(counts), [[0.5, 2 / 34, 0], [0.5, 32 / 34, 0]])
  # Scaled to 100 each: 80 and 20 against 20 and 80.
  np.testing.assert_allclose(label_share.normalized(counts), [[0.8, 0.2, 0], [0.2, 0.8, 0]])


@given(
  counts=st.integers(1, 6).flatmap(
    lambda regions: st.lists(
      st.lists(st.integers(0, 30), min_size=regions, max_size=regions), min_size=1, max_size=5
    )
  ),
  factor=st.integers(1, 9),
)
@settings(max_examples=60)
def test_shares_add_up_and_normalized_ones_ignore_how_large_a_region_is(counts, factor):
  counts = np.array(counts).T
  shares = label_share.raw(counts), label_share.normalized(counts)
  for share in shares:
    occurs = counts.sum(0) > 0
    np.testing.assert_allclose(share.sum(0), occurs, atol=1e-12)
    np.testing.assert_array_equal(share > 0, counts > 0)
  scaled = counts.copy()
  scaled[0] *= factor
  np.testing.assert_allclose(label_share.normalized(scaled), shares[1], atol=1e-12)
  for r, c in np.ndindex(*counts.shape):  # the definition
    rates = [row[c] / max(row.sum(), 1) for row in counts]
    assert np.isclose(shares[1][r, c], rates[r] / sum(rates) if sum(rates) else 0)


def test_the_top_classes_are_sorted_and_occur():
  share = np.array([[0.2, 0.9, 0.2, 0.0], [0.8, 0.1, 0.8, 0.0]])
  assert label_share.top_classes(share, 2) == [[1, 0], [0, 2]]
  assert label_share.top_classes(share, 9) == [[1, 0, 2], [0, 2, 1]]


def test_regions_with_almost_no_examples_of_a_class():
  # Two regions have less than 1% of the first class, one of the second; the third has no examples.
  share = np.array([[0.995, 0.5, 0], [0.005, 0.5, 0], [0.0, 0.0, 0]])
  assert label_share.mean_regions_below(share) == 1.5
  assert label_share.mean_regions_below(share, 0.6) == (2 + 3) / 2
