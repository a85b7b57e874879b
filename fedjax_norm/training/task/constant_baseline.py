"""Compares a trained model with the best constant answer for all test examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedjax_norm.objectives import IGNORED
from fedjax_norm.training.task.task import Task

WARNING = "the test loss is no better than that of one constant answer for all test examples"


def constant_mean_iou(task: Task) -> float:
  """Returns the mean IoU of the best constant answer for all test pixels.

  The most frequent class has its share of the pixels as IoU, every other class that occurs 0.
  """
  counts = np.bincount(task.test_targets[task.test_targets != IGNORED].ravel())
  return float(counts.max() / counts.sum() / (counts > 0).sum())


def no_better_than_guessing(task: Task, row: Mapping[str, Any]) -> bool:
  """Returns whether one constant answer for all test examples is as good as a model.

  For classes of images or pixels, the best constant answer is the class shares of the test set, and
  the loss of this answer is the entropy of the shares. So the result is True for a network with
  constant outputs, and for an accurate but overconfident network with a loss above the entropy. For
  regression the best constant answer is the mean (R² = 0); for pairs, either answer is correct for
  half of them. For a user-defined loss the best constant answer is unknown and the result False.

  ``row`` has the model's measures, as in ``metrics.csv``.
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
  # The tolerance covers the float32 sum of the loss.
  return not row["loss"] < -(shares * np.log(shares)).sum() * (1 - 1e-5)
