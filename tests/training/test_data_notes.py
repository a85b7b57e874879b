"""Notes on a task's data, and checks of user-defined models with running statistics."""

import numpy as np
import pytest
from flax import linen as nn
from helpers.settings import program_of

import fedjax_norm as fn
from fedjax_norm.algorithms.asgd import ASGD
from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NormSpec
from fedjax_norm.training.task.data_notes import collect_notes, describe_images


def task_of(source, **options):
  partition = fn.make_partition("iid", source.train.labels, 3, 0)
  return fn.make_task(source, partition, fn.make_norm("none"), **options)


def scaled(source, factor):
  train, test = (part._replace(images=part.images * factor) for part in source[1:3])
  return source._replace(train=train, test=test)


def test_values_far_outside_0_to_1_are_noted_and_not_shifted(make_source):
  source = make_source()
  bright = scaled(source, np.float32(255))
  shift = Preprocess(feature_shift="noise")
  for good in (source, scaled(source, np.float32(1.5)), scaled(source, -1)):
    assert not any(
      "image values range" in note for note in collect_notes(task_of(good, preprocess=shift))
    )
  assert any("image values range from 0." in note for note in collect_notes(task_of(bright)))
  with pytest.raises(UserError, match="scale the images to 0 to 1"):
    task_of(bright, preprocess=shift)
  bytes_ = source._replace(
    train=source.train._replace(images=(255 * source.train.images).astype(np.uint8)),
    test=source.test._replace(images=(255 * source.test.images).astype(np.uint8)),
  )
  assert describe_images(task_of(bytes_, preprocess=shift)).startswith(
    "6x6, 1 channel, uint8 from 0 to "
  )


def test_classes_without_training_images_and_small_test_sets_are_noted(make_source):
  source = make_source(num_test=20)
  gaps = source._replace(
    train=source.train._replace(labels=source.train.labels % 2 * 2 + 1),
    class_names=("a", "b", "c", "d", "e"),
    notes=("left out a lot",),
  )
  assert collect_notes(task_of(gaps)) == [
    "left out a lot",
    "no training image has one of the classes a, c, e; 10 test images do",
    "one of the 20 test images is worth 5.0 points of accuracy",
  ]
  assert collect_notes(task_of(make_source(num_test=100))) == []


class UserNet(nn.Module):
  """A user-defined module with a norm that the library does not control."""

  norm: NormSpec
  num_classes: int

  @nn.compact
  def __call__(self, x, mode):
    x = nn.BatchNorm(use_running_average=not mode.train)(nn.Conv(4, (3, 3))(x))
    return nn.Dense(self.num_classes)(nn.relu(x).mean((1, 2)))


class NoNorm(nn.Module):
  """A user-defined module without a field for the norm."""

  @nn.compact
  def __call__(self, x, mode):
    return nn.Dense(4)(x.mean((1, 2)))


def test_user_modules_with_statistics_that_are_never_updated_are_refused(tiny_source):
  task = task_of(tiny_source)
  for model, words in (
    (
      UserNet(fn.make_norm("none"), 4),
      "UserNet keeps variables in 'batch_stats'.*'none' never updates",
    ),
    (UserNet(fn.make_norm("ln"), 4), "instead of nn.BatchNorm"),
    (NoNorm(), "NoNorm has no field norm"),
  ):
    for method in (FEDAVG, ASGD):  # ASGD computes its messages before the first round
      with pytest.raises(UserError, match=words):
        program_of(method, task._replace(model=model), rounds=2)
  program_of(FEDAVG, task._replace(model=UserNet(fn.make_norm("bn"), 4)), rounds=2)
