"""Exact integer shares, and the stratified train/test split that is made of them."""

import numpy as np


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
  """Divides `total` units in proportion to the weights by the largest remainder.

  Unit i gets floor(q_i) or floor(q_i) + 1 with q_i = total * w_i / sum(w); ties go to the lower
  index. Weights that are all zero count as equal.

  Args:
    weights: [n] non-negative numbers.
    total: the number of units, at least 0.

  Returns:
    [n] int64 which sums to `total`.
  """
  weights = np.asarray(weights, np.float64)
  if weights.sum() <= 0:
    weights = np.ones_like(weights)
  quota = total * (weights / weights.sum())
  # A quota that is whole up to rounding must not lose a unit to its floor.
  whole = np.rint(quota)
  quota = np.where(np.abs(quota - whole) < 1e-9 * np.maximum(whole, 1), whole, quota)
  shares = np.floor(quota).astype(np.int64)
  order = np.argsort(shares - quota, kind="stable")
  shares[order[: total - shares.sum()]] += 1
  return shares


def stratified_split(strata: np.ndarray, num_test: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Splits examples at random so that every stratum is in the test set by its share.

  No stratum gives its last example to the test set, so the test set may come out smaller than
  asked for where strata are tiny.

  Args:
    strata: [N] int, the stratum of each example.
    num_test: how many examples to test on.
    seed: the only source of chance.

  Returns:
    The ids to train on and the ids to test on, both sorted, disjoint, together all N.
  """
  rng = np.random.default_rng(seed)
  _, strata, counts = np.unique(strata, return_inverse=True, return_counts=True)
  test_counts = np.minimum(apportion(counts, num_test), counts - 1)
  shuffled = rng.permutation(len(strata))
  grouped = shuffled[np.argsort(strata[shuffled], kind="stable")]
  starts = np.cumsum(counts) - counts
  rank = np.arange(len(strata)) - np.repeat(starts, counts)
  is_test = rank < np.repeat(test_counts, counts)
  return np.sort(grouped[~is_test]), np.sort(grouped[is_test])
