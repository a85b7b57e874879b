"""Whether a run ended above its start: what the best constant answer would lose in the test."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedjax_norm.objectives import IGNORED
from fedjax_norm.training.task.task import Task

WARNING = "the test loss is no better than that of one constant answer for all test examples"


def no_better_than_guessing(task: Task, row: Mapping[str, Any]) -> bool:
  """Whether one constant answer for all test examples has as good a loss as a model.

  For classes, of images or pixels, the best constant answer is their shares in the test set, and
  its loss is the entropy of these. So every network with constant outputs is found, whatever they
  are, and so is every loss above that, of a network that is right but far too sure as well. For
  numbers it is their mean, which has an R² of 0. For pairs it is either answer, which is right for
  half of them. Of a user's own loss it is not known.

  Args:
    task: what was to be learnt.
    row: the measures of the model, as in ``metrics.csv``.
  """
  if "threshold" in row:
    return not row["top1"] - row["verification_error"] > 0.5
  if "r2" in row:
    return not row["r2"] > 0
  if task.user_objective:
    return False
  targets = task.test_targets
  if task.kind == "segmentation":
    targets = targets[targets != IGNORED]
  counts = np.bincount(targets.ravel())
  shares = counts[counts > 0] / counts.sum()
  # The loss is summed in float32.
  return not row["loss"] < -(shares * np.log(shares)).sum() * (1 - 1e-5)
