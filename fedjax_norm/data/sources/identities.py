"""A seeded artificial set of identities to verify: smooth patterns under deformations and noise."""

from typing import NamedTuple

import numpy as np

from fedjax_norm.data import image_decoding, process_local
from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources import key_value_options

_WAVES = 8


class Options(NamedTuple):
  """What can be chosen about the identities.

  Attributes:
    identities: their number, at least 4; the first half, rounded up, is trained on and the rest is
      tested on.
    images: of each identity, at least 2.
    size: the side of an image in pixels.
    channels: of an image.
    deformation: how far images of one identity are turned, scaled, moved, bent and lit otherwise; 0
      for not at all.
    noise: the standard deviation of the pixel noise before clipping to [0, 1].
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
    UserError: an unknown or repeated option, a value of the wrong kind or out of range.
  """
  least = {"identities": 4, "images": 2, "size": 1, "channels": 1, "deformation": 0, "noise": 0}
  return key_value_options.read(text, Options, "identities", least)


def load(
  options: Options,
  seed: int,
  image_size: int | None = None,
  select_local: SelectLocal | None = None,
) -> Source:
  """Draws the data; an identity's images are the same whatever the number of others.

  Args:
    options: sizes, deformation and noise.
    seed: the only source of chance, at least 0.
    image_size: the side to resize every image to; None keeps the size.
    select_local: which training images are kept, the same as among all; None keeps all.
  """
  trained = (options.identities + 1) // 2

  def examples(first: int, last: int, select_local: SelectLocal | None):
    drawn = [_images(options, np.random.default_rng((seed, i))) for i in range(first, last)]
    labels = np.repeat(np.arange(last - first, dtype=np.int32), options.images)
    return process_local.examples(
      labels, None, image_decoding.reader(np.concatenate(drawn), image_size), select_local
    )

  names = tuple(f"identity{i}" for i in range(options.identities))
  return Source(
    "identities",
    examples(0, trained, select_local),
    examples(trained, options.identities, None),
    names[:trained],
    test_names=names[trained:],
  )


def _images(options: Options, rng: np.random.Generator) -> np.ndarray:
  """One identity's images: a sum of long waves, seen at coordinates that differ by image.

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
  places = grid @ turn.transpose(2, 0, 1) + vary(0.5, 1, 2) + bend
  pattern = np.sin(places @ frequencies + phases) @ amplitudes
  images = 0.5 + 0.25 * np.exp(vary(0.4, 1, 1)) * pattern + vary(0.15, 1, 1)
  images += options.noise * rng.standard_normal(images.shape)
  shape = (options.images, options.size, options.size, options.channels)
  return np.clip(images, 0, 1).astype(np.float32).reshape(shape)
