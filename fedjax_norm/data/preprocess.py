"""What happens to an image on the device between storage and model."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.augment import (
  channel_statistics,
  crop_flip,
  feature_shift,
  standardise,
  to_float,
)
from fedjax_norm.data.federated import Transform
from fedjax_norm.typing import Array


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Which steps are on.

  Attributes:
    standardise: whether channels get mean 0 and standard deviation 1, by the training set's.
    augment: whether training images are padded by 4 pixels, cropped at random and flipped.
    feature_shift: ``'noise'``, ``'brightness'`` or None: what differs between clients at equal
      labels.
  """

  standardise: bool = True
  augment: bool = False
  feature_shift: str | None = None


def make_transforms(
  config: Preprocess, train_images: np.ndarray
) -> tuple[Transform, Transform, Callable[[Array], Array]]:
  """The transforms of training images, of training images without augmentation, and of test images.

  Args:
    config: the steps.
    train_images: [N, H, W, C], for the channels' statistics.
  """
  channels = train_images.shape[-1]
  mean, std = np.zeros(channels, np.float32), np.ones(channels, np.float32)
  if config.standardise:
    mean, std = channel_statistics(train_images)

  def evaluation(images: Array) -> Array:
    return standardise(to_float(images), jnp.asarray(mean), jnp.asarray(std))

  def plain(images, ids, strength, run_key, step_key):
    del step_key
    images = to_float(images)
    if config.feature_shift:
      images = feature_shift(images, config.feature_shift, strength, ids, run_key)
    return standardise(images, jnp.asarray(mean), jnp.asarray(std))

  def training(images, ids, strength, run_key, step_key):
    images = plain(images, ids, strength, run_key, step_key)
    return crop_flip(step_key, images) if config.augment else images

  return training, plain, evaluation
