"""What happens to an image on the device between storage and model."""

import dataclasses
from collections.abc import Callable

import jax
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
from fedjax_norm.errors import UserError
from fedjax_norm.typing import Array

EvalTransform = Callable[..., Array]
"""(stored images [B, H, W, C], example ids [B], a client's feature strength or None) -> images."""

# The noise of a test image is the same in every run, as the test image is.
_TEST_NOISE_SEED = 0

AUGMENTATIONS = ("none", "crop", "crop_flip")


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Which steps are on.

  Attributes:
    standardise: whether channels get mean 0 and standard deviation 1, by the training set's.
    augment: ``'none'``, ``'crop'`` (training images are padded by 4 pixels and cropped at random)
      or ``'crop_flip'`` (and mirrored at random).
    feature_shift: ``'noise'``, ``'brightness'`` or None: what differs between clients at equal
      labels.
  """

  standardise: bool = True
  augment: str = "none"
  feature_shift: str | None = None

  def __post_init__(self):
    if self.augment not in AUGMENTATIONS:
      raise UserError(
        f"unknown augmentation {self.augment!r}; choose one of {', '.join(AUGMENTATIONS)}."
      )


def make_transforms(
  config: Preprocess, train_images: np.ndarray
) -> tuple[Transform, Transform, EvalTransform]:
  """The transforms of training images, of training images without augmentation, and of test images.

  Test images are shifted only for a client's own view of them.

  Args:
    config: the steps.
    train_images: [N, H, W, C], for the channels' statistics.
  """
  channels = train_images.shape[-1]
  mean, std = np.zeros(channels, np.float32), np.ones(channels, np.float32)
  if config.standardise:
    mean, std = channel_statistics(train_images)

  def plain(images, ids, strength, noise_key, step_key):
    del step_key
    images = to_float(images)
    if config.feature_shift:
      images = feature_shift(images, config.feature_shift, strength, ids, noise_key)
    return standardise(images, jnp.asarray(mean), jnp.asarray(std))

  def evaluation(images, ids=None, strength=None):
    if strength is None or not config.feature_shift:
      return standardise(to_float(images), jnp.asarray(mean), jnp.asarray(std))
    return plain(images, ids, strength, jax.random.key(_TEST_NOISE_SEED), None)

  def training(images, ids, strength, noise_key, step_key):
    images = plain(images, ids, strength, noise_key, step_key)
    if config.augment == "none":
      return images
    return crop_flip(step_key, images, flip=config.augment == "crop_flip")

  return training, plain, evaluation
