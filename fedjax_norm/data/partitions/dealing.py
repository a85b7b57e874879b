"""Random assignment of examples to clients in given numbers, overall or class by class."""

import numpy as np


def even_sizes(total: int, num_parts: int) -> np.ndarray:
  """Divides `total` into sizes that differ by at most 1, the larger ones first: [num_parts]."""
  return total // num_parts + (np.arange(num_parts) < total % num_parts)


def deal(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns each example's client, [sum of sizes] int64: client k gets sizes[k] random examples."""
  return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))


def index_classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns each example's index among the classes that occur, [N], and the class sizes, [C]."""
  _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
  return class_of, sizes


def group_by_class(
  class_of: np.ndarray, class_sizes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ids sorted by class, in random order within a class, and their ranks in a class."""
  shuffled = rng.permutation(len(class_of))
  grouped = shuffled[np.argsort(class_of[shuffled], kind="stable")]
  starts = np.cumsum(class_sizes) - class_sizes
  return grouped, np.arange(len(class_of)) - np.repeat(starts, class_sizes)


def deal_counts(class_of: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns each example's client, [N] int64: client k gets counts[c, k] examples of class c."""
  grouped, _ = group_by_class(class_of, counts.sum(1), rng)
  owner = np.empty(len(class_of), np.int64)
  num_classes, num_clients = counts.shape
  owner[grouped] = np.repeat(np.tile(np.arange(num_clients), num_classes), counts.ravel())
  return owner


def deal_shares(class_of: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns the result of :func:`deal_counts` for real-valued shares [C, K], which are rounded."""
  return deal_counts(class_of, round_shares(shares), rng)


def round_shares(shares: np.ndarray) -> np.ndarray:
  """Rounds shares [C, K] up or down, and so that the sum of each class is rounded to the nearest.

  A client whose share is rounded down in one class is preferred in the next, so that the clients'
  sizes also stay within about one example of their exact value.
  """
  whole = np.rint(shares)
  shares = np.where(np.abs(shares - whole) < 1e-9 * np.maximum(whole, 1), whole, shares)
  counts = np.floor(shares).astype(np.int64)
  owed = np.zeros(shares.shape[1])
  for exact, count in zip(shares, counts, strict=True):
    fraction = exact - count
    owed += fraction
    num_up = round(fraction.sum() - 1e-9)  # a half is rounded down despite rounding errors
    # Only a client with a fraction of this class can get one more: an exact share stays exact.
    up = np.argsort(np.where(fraction > 0, -owed, np.inf), kind="stable")[:num_up]
    count[up] += 1
    owed[up] -= 1
  return counts
