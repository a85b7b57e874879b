"""A synthetic data set of any shape: smooth class prototypes with noise."""

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
  """Options of the synthetic data.

  Attributes:
    classes: number of classes, at least 2.
    train: number of training images, at least one per class.
    test: number of test images, at least 1.
    size: height and width of an image in pixels.
    channels: number of channels of an image.
    noise: standard deviation of the pixel noise before clipping to [0, 1].
    clients: number of natural clients that share the training images evenly; 0 is none.
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
    UserError: an option is unknown or repeated, or a value has the wrong type or is out of range.
  """
  least = {"classes": 2, "train": 1, "test": 1, "size": 1, "channels": 1, "noise": 0, "clients": 0}
  options = key_value_options.parse(text, Options, "synthetic", least)
  if options.train < options.classes:
    raise UserError(
      f"The synthetic option train must be at least {options.classes}, one image per class, not "
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
  """Draws the data: image = clip(prototype of the class + noise, 0, 1), with balanced classes.

  The objective changes only the targets. Regression predicts the mean brightness of the prototype;
  segmentation whether each pixel of the prototype is dark, or bright (above 0.5).

  The other arguments are those of ``registry.load``.
  """
  rng = np.random.default_rng(seed)
  # Blocks of 2x2 pixels, so that a network with pooling can distinguish the classes.
  coarse = -(-options.size // 2)
  blocks = rng.uniform(0.2, 0.8, (options.classes, coarse, coarse, options.channels))
  prototypes = blocks.repeat(2, axis=1).repeat(2, axis=2)[:, : options.size, : options.size]
  prototypes = prototypes.astype(np.float32)

  def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.permutation(np.arange(count, dtype=np.int32) % options.classes)
    images = rng.standard_normal((count, *prototypes.shape[1:]), np.float32)
    # In place and in chunks, because a large set hardly fits in memory twice.
    images *= np.float32(options.noise)
    for start in range(0, count, _CHUNK):
      images[start : start + _CHUNK] += prototypes[labels[start : start + _CHUNK]]
    return np.clip(images, 0, 1, out=images), labels

  images, labels = draw(options.train)
  test_images, test_labels = draw(options.test)
  class_targets: np.ndarray | None = None
  target_names: tuple[str, ...] | None = None
  if objective == "regression":
    class_targets, target_names = prototypes.mean((1, 2, 3))[:, None], ("brightness",)
  elif objective == "segmentation":
    bright = (prototypes.mean(-1) > 0.5).astype(np.uint8)
    class_targets = image_decoding.resize_classes(bright, image_size)
    target_names = ("dark", "bright")
  targets, test_targets = (
    None if class_targets is None else class_targets[each] for each in (labels, test_labels)
  )
  clients, client_names = None, None
  if options.clients:
    clients = rng.permutation(np.arange(options.train, dtype=np.int32) % options.clients)
    client_names = tuple(f"client{k}" for k in range(options.clients))
  read, read_test = (image_decoding.reader(x, image_size) for x in (images, test_images))
  return Source(
    "synthetic",
    process_local.read_examples(labels, clients, read, select_local, targets),
    process_local.read_examples(test_labels, None, read_test, None, test_targets),
    tuple(f"class{c}" for c in range(options.classes)),
    client_names,
    target_names=target_names,
  )
