"""What happens to an image on the device between storage and model."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.augment import (
  Prepare,
  channel_moments,
  channel_statistics,
  crop_flip,
  feature_shift,
  standardise,
  to_float,
  to_unit,
)
from fedjax_norm.data.federated import Transform
from fedjax_norm.data.whiten import contrast_normalise, fit_zca, mean_image, whiten
from fedjax_norm.errors import UserError
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
class Preprocess:
  """Which steps are on: first a client's own shift, then contrast, then what the training set says.

  Attributes:
    standardise: whether channels get mean 0 and standard deviation 1, by the training set's; None
      is what is usual: they do unless ``whiten`` or ``subtract`` says what to do instead.
    augment: ``'none'``, ``'crop'`` (training images are padded by 4 pixels and cropped at random)
      or ``'crop_flip'`` (and mirrored at random).
    feature_shift: ``'noise'``, ``'brightness'`` or None: what differs between clients at equal
      labels.
    compute_dtype: of ``COMPUTE_DTYPES``, what the images become in the end. Layers compute in the
      dtype of what they are given; parameters, statistics and sums are float32 in any case.
    whiten: of ``WHITENINGS``: global contrast normalization of each image, ZCA whitening by the
      training images, or the one and then the other (paper 003, sec. 4.2).
    subtract: of ``SUBTRACTIONS``: the training set's mean of each channel or its mean image (sec.
      4.2, 4.3).
    zca_epsilon: the regularization of ZCA, as a share of the mean variance.
  """

  standardise: bool | None = None
  augment: str = "none"
  feature_shift: str | None = None
  compute_dtype: str = "float32"
  whiten: str = "none"
  subtract: str = "none"
  zca_epsilon: float = 0.1

  def __post_init__(self):
    for what, value, known in (
      ("augmentation", self.augment, AUGMENTATIONS),
      ("compute_dtype", self.compute_dtype, COMPUTE_DTYPES),
      ("whitening", self.whiten, WHITENINGS),
      ("subtraction", self.subtract, SUBTRACTIONS),
    ):
      if value not in known:
        raise UserError(f"unknown {what} {value!r}; choose one of {', '.join(known)}.")
    if self.zca and self.subtract != "none":
      raise UserError(
        f"ZCA whitening subtracts the mean image itself; drop the subtraction {self.subtract!r}."
      )
    if self.standardise and (self.zca or self.subtract != "none"):
      other = "ZCA whitening" if self.zca else f"the subtraction {self.subtract!r}"
      raise UserError(
        f"standardising and {other} both say what becomes of the mean and scale; drop one of them."
      )
    if self.gcn and self.feature_shift == "brightness":
      raise UserError(
        "global contrast normalization takes away the brightness that clients are to differ in; "
        "drop one of them."
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
