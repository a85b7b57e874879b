"""What happens to an image on the device between storage and model."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.federated import Transform
from fedjax_norm.data.transforms.augment import (
  SHIFT_KINDS,
  Prepare,
  channel_moments,
  channel_statistics,
  crop_flip,
  feature_shift,
  standardise,
  to_float,
  to_unit,
)
from fedjax_norm.data.transforms.whiten import contrast_normalise, fit_zca, mean_image, whiten
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.typing import Array

EvalTransform = Callable[..., Array]
"""(stored images [B, H, W, C], example ids [B], a client's feature strength or None) -> images."""

# The noise of a test image is the same in every run, as the test image is.
_TEST_NOISE_SEED = 0

AUGMENTATIONS = ("none", "crop", "crop_flip")
COMPUTE_DTYPES = ("float32", "bfloat16")
WHITENINGS = ("none", "gcn", "zca", "gcn_zca")
SUBTRACTIONS = ("none", "channel", "image")


@dataclasses.dataclass(frozen=True)
class Preprocess(Options):
  """Which steps are on: first a client's own shift, then contrast, then what the training set says.

  Layers compute in the dtype of what they are given; parameters, statistics and sums are float32 in
  any case.
  """

  group = "images"

  standardise: bool | None = option(
    None,
    "Whether channels get mean 0 and standard deviation 1 by the statistics of the training images;"
    " by default they do unless --whiten or --subtract is given.",
  )
  augment: str = option(
    "none",
    "Random changes of training images: crop pads them by 4 pixels and crops them, crop_flip also "
    "mirrors them.",
    choices=AUGMENTATIONS,
  )
  whiten: str = option(
    "none",
    "gcn gives every image mean 0 and deviation 1 (global contrast normalization), zca makes the "
    "pixels of the training images uncorrelated, and gcn_zca does both.",
    choices=WHITENINGS,
  )
  zca_epsilon: float = option(
    0.1,
    "Added to the variances of ZCA whitening, as a share of their mean.",
    least=0,
    needs="whiten=zca,gcn_zca",
  )
  subtract: str = option(
    "none",
    "What is subtracted from images: the training set's mean of each channel, or its mean image.",
    choices=SUBTRACTIONS,
  )
  feature_shift: str | None = option(
    None,
    "What differs between the images of clients with equal labels; noise by default.",
    choices=SHIFT_KINDS,
    needs="partition=feature",
  )
  feature_scale: float = option(
    1.0, "The largest strength of the feature shift.", least=0, needs="partition=feature"
  )
  compute_dtype: str = option(
    "float32",
    "The type that activations are computed in; bfloat16 is for accelerators. Parameters, "
    "statistics and sums stay float32.",
    choices=COMPUTE_DTYPES,
  )

  def check(self) -> None:
    """Refuses steps that contradict each other."""
    if self.zca and self.subtract != "none":
      raise UserError(
        f"ZCA whitening subtracts the mean image itself; drop --subtract={self.subtract}."
      )
    if self.standardise and (self.zca or self.subtract != "none"):
      other = f"--whiten={self.whiten}" if self.zca else f"--subtract={self.subtract}"
      raise UserError(f"--standardise and {other} exclude each other; drop one of them.")
    if self.gcn and self.feature_shift == "brightness":
      raise UserError(
        f"--whiten={self.whiten} removes the brightness in which the clients should differ; drop it"
        " or --feature_shift=brightness."
      )

  @property
  def gcn(self) -> bool:
    """Whether each image's contrast is normalized."""
    return self.whiten in ("gcn", "gcn_zca")

  @property
  def zca(self) -> bool:
    """Whether images are whitened."""
    return self.whiten in ("zca", "gcn_zca")

  @property
  def standardises(self) -> bool:
    """Whether channels are standardised, said or not."""
    usual = self.whiten == "none" and self.subtract == "none"
    return usual if self.standardise is None else self.standardise

  @property
  def by_channel(self) -> bool:
    """Whether it needs the channels' statistics over the training images."""
    return self.standardises or self.subtract == "channel"

  @property
  def by_pixel(self) -> bool:
    """Whether it needs what only all training images together tell."""
    return self.zca or self.subtract == "image"

  @property
  def prepare(self) -> Prepare:
    """What is done to images before the training set's statistics are taken."""
    return (lambda images: contrast_normalise(to_unit(images))) if self.gcn else to_unit


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
    train_images: [N, H, W, C], for the statistics that are not given.
    statistics: mean and standard deviation of each channel over the training images of all
      processes, [C] float32 each, as ``augment.channel_statistics`` gives them, of what
      ``config.prepare`` makes of the images.

  Raises:
    UserError: channels are to be standardised, or their means subtracted, and neither images nor
      statistics are given; or the images are to be whitened, or their mean image subtracted, and
      not all of them are there.
  """
  finish = _finish(config, train_images, statistics)

  def shifted(images, ids, strength, noise_key):
    images = to_float(images)
    if config.feature_shift and strength is not None:
      images = feature_shift(images, config.feature_shift, strength, ids, noise_key)
    return finish(contrast_normalise(images) if config.gcn else images)

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


def _finish(
  config: Preprocess,
  train_images: np.ndarray | None,
  statistics: tuple[np.ndarray, np.ndarray] | None,
) -> Callable[[Array], Array]:
  """What the training set's statistics do to images."""
  if config.by_pixel:
    if train_images is None or statistics is not None:
      raise UserError(
        "Whitening, or subtracting the mean image, needs the pixels of all training images in one "
        "process; give them, or standardise channels instead."
      )
    if config.zca:
      whitening = fit_zca(train_images, config.prepare, config.zca_epsilon)
      return functools.partial(whiten, whitening=whitening)
    average = mean_image(train_images, config.prepare)
    return lambda images: images - average
  if not config.by_channel:
    statistics = np.zeros(1, np.float32), np.ones(1, np.float32)
  elif statistics is None:
    if train_images is None:
      raise UserError(
        "Standardising needs the training images or the statistics of their channels."
      )
    statistics = channel_statistics(channel_moments(train_images, prepare=config.prepare))
  mean, std = statistics
  std = std if config.standardises else np.ones_like(std)
  return lambda images: standardise(images, jnp.asarray(mean), jnp.asarray(std))
