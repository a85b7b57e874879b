"""The share of each class's examples that each region has (paper 004, sec. 2.2 and app. B).

A region is a client of any partition. Shares are [R, C] float64, computed from ``registry.counts``:
[R, C] numbers n_rc of examples of each region r and class c.
"""

import numpy as np


def raw(counts: np.ndarray) -> np.ndarray:
  """Returns each region's share of the examples of each class (fig. 11 and 14).

    s_rc = n_rc / sum_r n_rc

  The shares of a class sum to 1, or are 0 if no region has the class.
  """
  counts = np.asarray(counts, np.float64)
  return _divide(counts, counts.sum(0))


def normalized(counts: np.ndarray) -> np.ndarray:
  """Returns the shares after scaling all regions to one number of examples (fig. 12 and 15).

    s_rc = p_rc / sum_r p_rc,  p_rc = n_rc / sum_c n_rc

  A region without examples has the share 0.
  """
  counts = np.asarray(counts, np.float64)
  return raw(_divide(counts, counts.sum(1, keepdims=True)))


def top_classes(share: np.ndarray, most: int) -> list[list[int]]:
  """Returns the classes with the largest shares of each region, in descending order (table 1).

  Each of the R lists has at most ``most`` classes, only with ``share`` [R, C] above 0. Of classes
  with equal shares the lower one comes first.
  """
  order = np.argsort(-share, axis=1, kind="stable")[:, :most]
  return [[int(c) for c in top if row[c] > 0] for top, row in zip(order, share, strict=True)]


def mean_regions_below(share: np.ndarray, bound: float = 0.01) -> float:
  """Returns the number of regions whose share of a class is below `bound` (app. B.3).

  The number is a mean over the classes that some region has.
  """
  occurring = share[:, share.sum(0) > 0]
  return float((occurring < bound).sum(0).mean())


def _divide(values: np.ndarray, totals: np.ndarray) -> np.ndarray:
  return np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
