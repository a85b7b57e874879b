"""Exact integer shares, and a stratified train/test split made with them."""

import numpy as np

from fedjax_norm.data.partitions.dealing import group_by_class


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
  """Returns `total` units divided in proportion to weights, by the largest remainder method.

  Share i is floor(q_i) or floor(q_i) + 1 with q_i = total * w_i / sum(w); ties go to the lower
  index. Weights that are all zero count as equal.

  Args:
    weights: [n] non-negative numbers.
    total: the number of units, at least 0.

  Returns:
    [n] int64, with the sum `total`.
  """
  weights = np.asarray(weights, np.float64)
  if weights.sum() <= 0:
    weights = np.ones_like(weights)
  quota = total * (weights / weights.sum())
  # A quota that is an integer up to rounding error must not be rounded down.
  whole = np.rint(quota)
  quota = np.where(np.abs(quota - whole) < 1e-9 * np.maximum(whole, 1), whole, quota)
  shares = np.floor(quota).astype(np.int64)
  order = np.argsort(shares - quota, kind="stable")
  shares[order[: total - shares.sum()]] += 1
  return shares


def stratified_split(strata: np.ndarray, num_test: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Splits examples at random, with every stratum in the test set in proportion to its size.

  Every stratum keeps at least one example for training, so the test set may be smaller than
  `num_test` if strata are tiny.

  Args:
    strata: [N], the stratum of each example, such as its class.
    num_test: number of test examples.
    seed: seed of the split.

  Returns:
    The ids of the training and of the test examples, both sorted.
  """
  rng = np.random.default_rng(seed)
  _, strata, counts = np.unique(strata, return_inverse=True, return_counts=True)
  test_counts = np.minimum(apportion(counts, num_test), counts - 1)
  grouped, rank = group_by_class(strata, counts, rng)
  is_test = rank < np.repeat(test_counts, counts)
  return np.sort(grouped[~is_test]), np.sort(grouped[is_test])


def held_out_note(num_test: int, num_images: int) -> str:
  """Returns the note that a random part of the images is the test set."""
  share = num_test / num_images
  return f"held out {num_test:,} of {num_images:,} images ({share:.0%}) at random for the test"
