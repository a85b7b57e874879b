"""The comparison of a model with the best constant answer for all test examples."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedjax_norm.objectives import IGNORED
from fedjax_norm.training.task.constant_baseline import constant_mean_iou, no_better_than_guessing


def pixels(*counts: int) -> SimpleNamespace:
  """Returns a segmentation task: pixels of each class, and as many ignored pixels."""
  targets = np.repeat(np.arange(len(counts)), counts)
  targets = np.concatenate([targets, np.full(len(targets), IGNORED)]).astype(np.uint8)
  return SimpleNamespace(
    user_objective=None, kind="segmentation", test_targets=targets.reshape(1, 2, -1)
  )


def labels(*counts: int) -> SimpleNamespace:
  """Returns a classification task with the given number of test examples of each class."""
  targets = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
  return SimpleNamespace(user_objective=None, kind="classification", test_targets=targets)


@pytest.mark.parametrize("make", [labels, pixels])
@pytest.mark.parametrize("counts", [(5, 5), (5, 0, 5), (8, 1, 1)])
def test_the_loss_has_to_be_below_the_entropy_of_the_classes(make, counts):
  shares = np.array([count for count in counts if count]) / 10
  entropy = -sum(share * np.log(share) for share in shares)
  assert not no_better_than_guessing(make(*counts), {"loss": 0.99 * entropy})
  assert no_better_than_guessing(make(*counts), {"loss": np.float32(entropy)})
  assert no_better_than_guessing(make(*counts), {"loss": 568.0})
  assert no_better_than_guessing(make(*counts), {"loss": float("nan")})


def test_the_mean_iou_of_the_best_constant_answer():
  assert constant_mean_iou(pixels(8, 1, 1)) == pytest.approx(0.8 / 3)
  assert constant_mean_iou(pixels(5, 0, 5)) == pytest.approx(0.5 / 2)  # the second class is absent


def test_regression_has_to_be_better_than_the_mean():
  assert no_better_than_guessing(labels(1), {"r2": 0.0, "loss": 1.0})
  assert not no_better_than_guessing(labels(1), {"r2": 0.01, "loss": 1.0})
