"""A seeded artificial data set of any shape: smooth class prototypes under noise."""

from typing import NamedTuple

import numpy as np

from fedjax_norm import host_memory
from fedjax_norm.data import image_decoding, process_local
from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources import key_value_options
from fedjax_norm.errors import UserError

_CHUNK = 10_000  # images


class Options(NamedTuple):
  """What can be chosen about the synthetic data.

  Attributes:
    classes: the number of classes, at least 2.
    train: the number of training images, at least one a class.
    test: the number of test images, at least 1.
    size: the side of an image in pixels.
    channels: the channels of an image.
    noise: the standard deviation of the pixel noise before clipping to [0, 1].
    clients: the number of natural clients that share the training images evenly, 0 for none.
  """

  classes: int = 10
  train: int = 2000
  test: int = 500
  size: int = 8
  channels: int = 1
  noise: float = 0.2
  clients: int = 0


def parse(text: str) -> Options:
  """Reads options such as `classes=4,noise=0.1`.

  Raises:
    UserError: an unknown or repeated option, a value of the wrong kind or out of range.
  """
  least = {"classes": 2, "train": 1, "test": 1, "size": 1, "channels": 1, "noise": 0, "clients": 0}
  options = key_value_options.read(text, Options, "synthetic", least)
  if options.train < options.classes:
    raise UserError(
      f"The synthetic option train must be at least {options.classes}, one image a class, not "
      f"{options.train}."
    )
  host_memory.check(
    4 * (options.train + options.test + options.classes) * options.size**2 * options.channels,
    f"drawing {options.train + options.test:,} images of {options.size}x{options.size} pixels",
    "make fewer or smaller ones",
  )
  if options.clients > options.train:
    raise UserError(
      f"The synthetic option clients must be between 0 and the {options.train} training images,"
      f" not {options.clients}."
    )
  return options


def load(
  options: Options,
  seed: int,
  image_size: int | None = None,
  select_local: SelectLocal | None = None,
  objective: str = "classification",
) -> Source:
  """Draws the data: image = clip(prototype of its class + noise, 0, 1), classes balanced.

  Regression is of the mean brightness of the prototype, and segmentation of its pixels into dark
  and bright ones, those that are above a half; the images are the same.

  Args:
    options: sizes and noise.
    seed: the only source of chance, at least 0.
    image_size: the side to resize every image to; None keeps the size.
    select_local: which training images are kept, the same as among all; None keeps all.
    objective: of ``objectives.OBJECTIVES``, what the targets are for.
  """
  rng = np.random.default_rng(seed)
  # Blocks of two pixels, so that a pooling network can tell the classes apart.
  coarse = -(-options.size // 2)
  blocks = rng.uniform(0.2, 0.8, (options.classes, coarse, coarse, options.channels))
  prototypes = blocks.repeat(2, axis=1).repeat(2, axis=2)[:, : options.size, : options.size]
  prototypes = prototypes.astype(np.float32)

  def draw(count):
    labels = rng.permutation(np.arange(count, dtype=np.int32) % options.classes)
    images = rng.standard_normal((count, *prototypes.shape[1:]), np.float32)
    # In place and by parts, for a large set fits in memory hardly more than once.
    images *= np.float32(options.noise)
    for start in range(0, count, _CHUNK):
      images[start : start + _CHUNK] += prototypes[labels[start : start + _CHUNK]]
    return np.clip(images, 0, 1, out=images), labels

  images, labels = draw(options.train)
  test_images, test_labels = draw(options.test)
  of_class: np.ndarray | None = None
  target_names: tuple[str, ...] | None = None
  if objective == "regression":
    of_class, target_names = prototypes.mean((1, 2, 3))[:, None], ("brightness",)
  elif objective == "segmentation":
    bright = (prototypes.mean(-1) > 0.5).astype(np.uint8)
    of_class, target_names = image_decoding.resize_classes(bright, image_size), ("dark", "bright")
  targets, test_targets = (
    None if of_class is None else of_class[each] for each in (labels, test_labels)
  )
  clients, client_names = None, None
  if options.clients:
    clients = rng.permutation(np.arange(options.train, dtype=np.int32) % options.clients)
    client_names = tuple(f"client{k}" for k in range(options.clients))
  return Source(
    "synthetic",
    process_local.examples(
      labels, clients, image_decoding.reader(images, image_size), select_local, targets
    ),
    process_local.examples(
      test_labels, None, image_decoding.reader(test_images, image_size), None, test_targets
    ),
    tuple(f"class{c}" for c in range(options.classes)),
    client_names,
    target_names=target_names,
  )
