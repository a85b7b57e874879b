"""Ratios and means of measures that are undefined (nan) for some classes."""

import numpy as np


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """Returns part / whole for arrays of one shape; nan where the whole is 0."""
  return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)


def defined_mean(values: np.ndarray) -> float:
  """Returns the mean of the finite values; nan if there are none."""
  finite = values[np.isfinite(values)]
  return float(finite.mean()) if len(finite) else float("nan")
