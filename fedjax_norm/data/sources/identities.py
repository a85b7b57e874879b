"""Synthetic identities for verification: smooth random patterns with deformations and noise."""

from typing import NamedTuple

import numpy as np

from fedjax_norm.data import image_decoding, process_local
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources import key_value_options

_WAVES = 8


class Options(NamedTuple):
  """Options of the identities.

  Attributes:
    identities: number of identities, at least 4; the first half, rounded up, is for training and
      the second half for testing.
    images: number of images per identity, at least 2.
    size: height and width of an image in pixels.
    channels: number of channels of an image.
    deformation: strength of the random rotation, scaling, shift, bending and lighting of the images
      of one identity; 0 is none.
    noise: standard deviation of the pixel noise before clipping to [0, 1].
  """

  identities: int = 80
  images: int = 20
  size: int = 16
  channels: int = 1
  deformation: float = 1.0
  noise: float = 0.05


def parse(text: str) -> Options:
  """Reads options such as `identities=40,noise=0.1`.

  Raises:
    UserError: an option is unknown or repeated, or a value has the wrong type or is out of range.
  """
  least = {"identities": 4, "images": 2, "size": 1, "channels": 1, "deformation": 0, "noise": 0}
  return key_value_options.parse(text, Options, "identities", least)


def load(
  options: Options,
  seed: int,
  image_size: int | None = None,
  select_local: SelectLocal | None = None,
) -> Source:
  """Draws the images; the images of an identity do not depend on the number of identities.

  The other arguments are those of ``registry.load``.
  """
  num_train = (options.identities + 1) // 2

  def examples(first: int, last: int, select_local: SelectLocal | None) -> Examples:
    drawn = [_images(options, np.random.default_rng((seed, i))) for i in range(first, last)]
    labels = np.repeat(np.arange(last - first, dtype=np.int32), options.images)
    return process_local.read_examples(
      labels, None, image_decoding.reader(np.concatenate(drawn), image_size), select_local
    )

  names = tuple(f"identity{i}" for i in range(options.identities))
  return Source(
    "identities",
    examples(0, num_train, select_local),
    examples(num_train, options.identities, None),
    names[:num_train],
    test_names=names[num_train:],
  )


def _images(options: Options, rng: np.random.Generator) -> np.ndarray:
  """Draws the images of one identity: a sum of long waves at coordinates that differ by image.

  Returns:
    [images, size, size, channels] float32 in [0, 1].
  """
  frequencies = rng.normal(0, 3, (2, _WAVES))
  phases = rng.uniform(0, 2 * np.pi, _WAVES)
  amplitudes = rng.normal(0, 1 / np.sqrt(_WAVES), (_WAVES, options.channels))

  def vary(scale: float, *shape: int) -> np.ndarray:
    return options.deformation * rng.uniform(-scale, scale, (options.images, *shape))

  axis = (np.arange(options.size) + 0.5) / options.size * 2 - 1
  grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
  angle, scale = vary(0.5), np.exp(vary(0.2))
  turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  bend = vary(0.15, 1, 2) * np.sin(grid @ rng.normal(0, 2, (2, 2)) + vary(np.pi, 1, 2))
  coordinates = grid @ turn.transpose(2, 0, 1) + vary(0.5, 1, 2) + bend
  pattern = np.sin(coordinates @ frequencies + phases) @ amplitudes
  images = 0.5 + 0.25 * np.exp(vary(0.4, 1, 1)) * pattern + vary(0.15, 1, 1)
  images += options.noise * rng.standard_normal(images.shape)
  shape = (options.images, options.size, options.size, options.channels)
  return np.clip(images, 0, 1).astype(np.float32).reshape(shape)
