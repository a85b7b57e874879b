"""How the examples of each class are shared out over regions (paper 004, sec. 2.2 and app. B).

A region is any client of a partition; counts are those of ``partition.counts``.
"""

import numpy as np


def raw(counts: np.ndarray) -> np.ndarray:
  """The share of each class's examples that each region holds (fig. 11 and 14).

    s_rc = n_rc / sum_r n_rc

  Args:
    counts: [R, C] the examples n_rc of each region and class.

  Returns:
    [R, C] float64; a class's shares add up to 1, or are 0 where nobody has it.
  """
  counts = np.asarray(counts, np.float64)
  return _over(counts, counts.sum(0))


def normalized(counts: np.ndarray) -> np.ndarray:
  """The same when every region is scaled to the same number of examples (fig. 12 and 15).

    s_rc = p_rc / sum_r p_rc,  p_rc = n_rc / sum_c n_rc

  Args:
    counts: [R, C] the examples n_rc of each region and class.

  Returns:
    [R, C] float64, as of :func:`raw`; a region without examples has no share.
  """
  counts = np.asarray(counts, np.float64)
  return raw(_over(counts, counts.sum(1, keepdims=True)))


def top(share: np.ndarray, most: int) -> list[list[int]]:
  """The classes that each region has the largest shares of, the largest first (table 1).

  Args:
    share: [R, C].
    most: classes a region; fewer where it holds fewer.

  Returns:
    R lists of classes; of equal shares the lower class comes first.
  """
  order = np.argsort(-share, axis=1, kind="stable")[:, :most]
  return [[int(c) for c in row if own[c] > 0] for row, own in zip(order, share, strict=True)]


def regions_without(share: np.ndarray, less_than: float = 0.01) -> float:
  """The mean over classes of how many regions hold less than a share of them (app. B.3).

  Args:
    share: [R, C]; classes that nobody has are left out.
    less_than: the share.
  """
  held = share[:, share.sum(0) > 0]
  return float((held < less_than).sum(0).mean())


def _over(values: np.ndarray, totals: np.ndarray) -> np.ndarray:
  return np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
