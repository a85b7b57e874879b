"""The steps that turn a stored image into the model's input on the device, and their options."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.federated import Transform
from fedjax_norm.data.transforms import scaling
from fedjax_norm.data.transforms.augment import PADDINGS, SHIFT_KINDS, crop_flip, feature_shift
from fedjax_norm.data.transforms.whiten import (
  Whitening,
  contrast_normalise,
  fit_zca,
  mean_image,
  whiten,
)
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.typing import Array, Key

EvalTransform = Callable[..., Array]
"""(stored images [B, H, W, C], example ids [B], strength of a client's feature shift or None) ->
inputs of the model [B, H, W, C]."""

Statistics = Mapping[str, np.ndarray]
"""What the steps need to know of the training images, by name: ``mean`` and ``std`` [C]; ``image``
[H, W, C], the mean image; or the ``mean`` [D] and ``matrix`` [D, D] of ZCA whitening."""

# The noise of a test image is the same in every run.
_TEST_NOISE_SEED = 0

AUGMENTATIONS = ("none", "crop", "crop_flip")
COMPUTE_DTYPES = ("float32", "bfloat16")
WHITENINGS = ("none", "gcn", "zca", "gcn_zca")
SUBTRACTIONS = ("none", "channel", "image")


@dataclasses.dataclass(frozen=True)
class Preprocess(Options):
  """Options of the steps from stored images to the model's inputs.

  The steps run in this order: the client's feature shift, contrast normalization, scaling by
  statistics of the training images, augmentation. Layers compute in the dtype of their inputs.
  """

  group = "images"

  standardise: bool | None = option(
    None,
    "Whether to give each channel mean 0 and standard deviation 1 over the training images; by "
    "default yes, unless --whiten or --subtract is given.",
  )
  augment: str = option(
    "none",
    "Random changes of training images: crop pads them by 4 pixels and crops them to their size at "
    "random; crop_flip also mirrors half of them.",
    choices=AUGMENTATIONS,
  )
  crop_padding: str = option(
    "zeros",
    "What --augment adds at the edges of an image before it crops: zeros, or the image itself "
    "mirrored at its edge (reflect).",
    choices=PADDINGS,
    needs="augment=crop,crop_flip",
  )
  whiten: str = option(
    "none",
    "Whitening (paper 003, sec. 4.2 and 4.3): gcn gives every image mean 0 and standard deviation "
    "1 (global contrast normalization), zca makes the training images' pixels uncorrelated, "
    "gcn_zca does both.",
    choices=WHITENINGS,
  )
  zca_epsilon: float = option(
    0.1,
    "Number that ZCA whitening adds to the variance of each principal component, as a multiple of "
    "the mean variance; it keeps components with little variance from becoming noise.",
    least=0,
    needs="whiten=zca,gcn_zca",
  )
  subtract: str = option(
    "none",
    "Mean of the training images to subtract from all images: channel is the mean of each channel, "
    "image the mean of each pixel.",
    choices=SUBTRACTIONS,
  )
  feature_shift: str | None = option(
    None,
    "Difference between the images of clients with --partition=feature (paper 004, app. K): pixel "
    "noise or brightness, of another strength at each client; by default noise.",
    choices=SHIFT_KINDS,
    needs="partition=feature",
  )
  feature_scale: float = option(
    1.0,
    "Largest strength of a client's feature shift, in units of pixel values from 0 to 1.",
    least=0,
    needs="partition=feature",
  )
  compute_dtype: str = option(
    "float32",
    "Dtype of activations; bfloat16 is for accelerators. Parameters, statistics and sums stay "
    "float32.",
    choices=COMPUTE_DTYPES,
  )

  def check(self) -> None:
    """Raises UserError for steps that contradict each other."""
    if self.zca and self.subtract != "none":
      raise UserError(
        f"ZCA whitening subtracts the mean image itself; drop --subtract={self.subtract}."
      )
    if self.standardise and (self.zca or self.subtract != "none"):
      other = f"--whiten={self.whiten}" if self.zca else f"--subtract={self.subtract}"
      raise UserError(
        f"--standardise and {other} both shift or scale the images; drop --standardise or {other}."
      )
    if self.gcn and self.feature_shift == "brightness":
      raise UserError(
        f"--whiten={self.whiten} removes the difference in brightness between the clients; drop"
        " --whiten or --feature_shift=brightness."
      )

  @property
  def gcn(self) -> bool:
    """Whether the contrast of each image is normalized."""
    return self.whiten in ("gcn", "gcn_zca")

  @property
  def zca(self) -> bool:
    """Whether images are whitened by ZCA."""
    return self.whiten in ("zca", "gcn_zca")

  @property
  def standardises(self) -> bool:
    """Whether channels are standardised, explicitly or by default."""
    default = self.whiten == "none" and self.subtract == "none"
    return default if self.standardise is None else self.standardise

  @property
  def by_channel(self) -> bool:
    """Whether the steps need the mean and standard deviation of each channel."""
    return self.standardises or self.subtract == "channel"

  @property
  def by_pixel(self) -> bool:
    """Whether the steps need the pixels of all training images in one process."""
    return self.zca or self.subtract == "image"

  @property
  def prepare(self) -> scaling.Prepare:
    """The function of the steps before statistics of the training images are computed."""
    to_unit = scaling.to_unit
    return (lambda images: contrast_normalise(to_unit(images))) if self.gcn else to_unit


def make_transforms(
  config: Preprocess,
  train_images: np.ndarray | None = None,
  *,
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Transform, Transform, EvalTransform]:
  """Returns :func:`transforms_of` the statistics of training images (see :func:`fit`)."""
  return transforms_of(config, fit(config, train_images, statistics))


def transforms_of(
  config: Preprocess, statistics: Statistics
) -> tuple[Transform, Transform, EvalTransform]:
  """Returns three functions: for training images with and without augmentation, for test images.

  Test images get the feature shift of a client only if the strength is given.

  Args:
    config: the options.
    statistics: what :func:`fit` returns for these options.
  """
  finish = _finish(config, statistics)

  def shifted(images: Array, ids: Array | None, strength: Array | None, noise_key: Key) -> Array:
    images = scaling.to_float(images)
    if config.feature_shift and strength is not None:
      images = feature_shift(images, config.feature_shift, strength, ids, noise_key)
    return finish(contrast_normalise(images) if config.gcn else images)

  def plain(images: Array, ids: Array, strength: Array, noise_key: Key, step_key: Key) -> Array:
    del step_key
    return shifted(images, ids, strength, noise_key).astype(config.compute_dtype)

  def evaluation(images: Array, ids: Array | None = None, strength: Array | None = None) -> Array:
    noise_key = jax.random.key(_TEST_NOISE_SEED)
    return shifted(images, ids, strength, noise_key).astype(config.compute_dtype)

  def training(images: Array, ids: Array, strength: Array, noise_key: Key, step_key: Key) -> Array:
    images = shifted(images, ids, strength, noise_key)
    if config.augment != "none":
      flip = config.augment == "crop_flip"
      images = crop_flip(step_key, images, flip=flip, padding=config.crop_padding)
    return images.astype(config.compute_dtype)

  return training, plain, evaluation


def fit(
  config: Preprocess,
  train_images: np.ndarray | None,
  channels: tuple[np.ndarray, np.ndarray] | None = None,
) -> Statistics:
  """Returns the statistics of the training images that the steps need.

  Args:
    config: the options.
    train_images: [N, H, W, C], needed to compute statistics that are not given.
    channels: ``scaling.channel_statistics`` over the training images of all processes, after
      ``config.prepare``: mean and standard deviation, [C] float32 each.

  Raises:
    UserError: statistics of channels are needed, but neither images nor statistics are given; or
      ZCA whitening or the mean image needs all training images, and they are not given.
  """
  if config.by_pixel:
    if train_images is None or channels is not None:
      raise UserError(
        "ZCA whitening, or subtracting the mean image, needs the pixels of all training images in "
        "one process; use one process, or standardise channels instead."
      )
    if config.zca:
      return fit_zca(train_images, config.prepare, config.zca_epsilon)._asdict()
    return {"image": mean_image(train_images, config.prepare)}
  if not config.by_channel:
    return {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}
  if channels is None:
    if train_images is None:
      raise UserError(
        "Standardising needs the training images or their statistics; give train_images or"
        " statistics."
      )
    channels = scaling.channel_statistics(
      scaling.channel_moments(train_images, prepare=config.prepare)
    )
  mean, std = channels
  return {"mean": mean, "std": std if config.standardises else np.ones_like(std)}


def _finish(config: Preprocess, statistics: Statistics) -> Callable[[Array], Array]:
  """Returns the step that uses the statistics of the training images."""
  if config.zca:
    return functools.partial(whiten, whitening=Whitening(**statistics))
  if config.by_pixel:
    return lambda images: images - statistics["image"]
  mean, std = statistics["mean"], statistics["std"]
  return lambda images: scaling.standardise(images, jnp.asarray(mean), jnp.asarray(std))
