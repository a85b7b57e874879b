"""Whether a model has learnt anything: the best constant answer is what it has to beat."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedjax_norm.objectives import IGNORED
from fedjax_norm.training.task import Task

WARNING = "the model is no better than one constant answer for all test examples"


def no_better_than_guessing(task: Task, row: Mapping[str, Any]) -> bool:
  """Whether one constant answer for all test examples does as well as a model.

  For classes, of images or pixels, the best constant answer is their shares in the test set, and
  its loss is the entropy of these. So every network with constant outputs is found, whatever they
  are, and so is every loss above that. For numbers it is their mean, which has an R² of 0. For
  pairs it is either answer, which is right for half of them.

  Args:
    task: what was to be learnt.
    row: the measures of the model, as in ``metrics.csv``.
  """
  if "threshold" in row:
    return bool(row["top1"] - row["verification_error"] <= 0.5)
  if "r2" in row:
    return bool(row["r2"] <= 0)
  targets = task.test_targets
  if task.objective == "segmentation":
    targets = targets[targets != IGNORED]
  counts = np.bincount(targets.ravel())
  shares = counts[counts > 0] / counts.sum()
  # The loss is summed in float32.
  return bool(row["loss"] >= -(shares * np.log(shares)).sum() * (1 - 1e-5))
