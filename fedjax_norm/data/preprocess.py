"""What happens to an image on the device between storage and model."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.augment import (
  channel_moments,
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
COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Which steps are on.

  Attributes:
    standardise: whether channels get mean 0 and standard deviation 1, by the training set's.
    augment: ``'none'``, ``'crop'`` (training images are padded by 4 pixels and cropped at random)
      or ``'crop_flip'`` (and mirrored at random).
    feature_shift: ``'noise'``, ``'brightness'`` or None: what differs between clients at equal
      labels.
    compute_dtype: of ``COMPUTE_DTYPES``, what the images become in the end. Layers compute in the
      dtype of what they are given; parameters, statistics and sums are float32 in any case.
  """

  standardise: bool = True
  augment: str = "none"
  feature_shift: str | None = None
  compute_dtype: str = "float32"

  def __post_init__(self):
    if self.augment not in AUGMENTATIONS:
      raise UserError(
        f"unknown augmentation {self.augment!r}; choose one of {', '.join(AUGMENTATIONS)}."
      )
    if self.compute_dtype not in COMPUTE_DTYPES:
      raise UserError(
        f"unknown compute_dtype {self.compute_dtype!r}; choose one of {', '.join(COMPUTE_DTYPES)}."
      )


def make_transforms(
  config: Preprocess,
  train_images: np.ndarray | None = None,
  *,
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Transform, Transform, EvalTransform]:
  """The transforms of training images, of training images without augmentation, and of test images.

  Test images are shifted only for a client's own view of them.

  Args:
    config: the steps.
    train_images: [N, H, W, C], for the channels' statistics where they are not given.
    statistics: mean and standard deviation of each channel over the training images of all
      processes, [C] float32 each, as ``augment.channel_statistics`` gives them.

  Raises:
    UserError: channels are to be standardised and neither images nor statistics are given.
  """
  if not config.standardise:
    statistics = np.zeros(1, np.float32), np.ones(1, np.float32)
  elif statistics is None:
    if train_images is None:
      raise UserError(
        "Standardising needs the training images or the statistics of their channels."
      )
    statistics = channel_statistics(channel_moments(train_images))
  mean, std = statistics

  def shifted(images, ids, strength, noise_key):
    images = to_float(images)
    if config.feature_shift and strength is not None:
      images = feature_shift(images, config.feature_shift, strength, ids, noise_key)
    return standardise(images, jnp.asarray(mean), jnp.asarray(std))

  def plain(images, ids, strength, noise_key, step_key):
    del step_key
    return shifted(images, ids, strength, noise_key).astype(config.compute_dtype)

  def evaluation(images, ids=None, strength=None):
    noise_key = jax.random.key(_TEST_NOISE_SEED)
    return shifted(images, ids, strength, noise_key).astype(config.compute_dtype)

  def training(images, ids, strength, noise_key, step_key):
    images = shifted(images, ids, strength, noise_key)
    if config.augment != "none":
      images = crop_flip(step_key, images, flip=config.augment == "crop_flip")
    return images.astype(config.compute_dtype)

  return training, plain, evaluation
