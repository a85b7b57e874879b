"""Arrays of encoded images, such as image files, which are decoded when they are read."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np

from fedjax_norm import host_memory
from fedjax_norm.data import image_decoding
from fedjax_norm.data.image_decoding import Stream
from fedjax_norm.data.process_local import ReadImages, id_blocks, lazy_zeros

_BLOCK_BYTES = 2**24

Decoded = TypeVar("Decoded")


def decode_all(decode: Callable[..., Decoded], *arguments: Iterable[Any]) -> Iterator[Decoded]:
  """Yields what a function returns for the arguments of each image, in order, on all cores."""
  with image_decoding.allow_large(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
    # Iterables may belong to one thread, so this thread reads them and the others decode.
    yield from threads.map(decode, *arguments)


@dataclasses.dataclass(frozen=True)
class EncodedImages:
  """An array [N, H, W, C] of encoded images; reading a part decodes it, on all cores.

  Attributes:
    shape: (N, H, W, C), with 1 or 3 channels C.
    streams: function from the ids of images to their encoded forms, in this order.
    name: function from the id of an image to its name in errors.
    size: height and width in pixels to resize to; None requires images of H x W pixels.
  """

  shape: tuple[int, int, int, int]
  streams: Callable[[np.ndarray], Iterable[Stream]]
  name: Callable[[int], str]
  size: int | None

  dtype = np.dtype(np.uint8)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
    """Decodes the images of a slice or with the ids [n]: [n, H, W, C] uint8.

    Raises:
      UserError: an image is damaged or has another size.
    """
    ids = np.arange(len(self))[index]
    result = np.empty((len(ids), *self.shape[1:]), self.dtype)
    for i, pixels in enumerate(decode_all(self._decode, ids, self.streams(ids))):
      result[i] = pixels
    return result

  def _decode(self, i: int, stream: Stream) -> np.ndarray:
    pixels = image_decoding.decode(stream, self.name(i), self.shape[3], self.size)
    if pixels.shape != self.shape[1:]:
      raise image_decoding.different_sizes(self.name(i), pixels.shape, self.name(0), self.shape[1:])
    return pixels

  def read(self, ids: np.ndarray | None) -> np.ndarray:
    """Decodes the images with the given ids, or all for None.

    Returns:
      [N, H, W, C] uint8; images that are not in `ids` are zero and use no memory.

    Raises:
      UserError: see ``__getitem__``; or the decoded images do not fit in the host's memory.
    """
    count, (_, height, width, channels) = len(self) if ids is None else len(ids), self.shape
    host_memory.check(
      count * height * width * channels,
      f"an array of {count:,} images of {height}x{width} pixels",
      "choose a smaller image size, or write the images to a folder DIR with python -m"
      " experiments.convert and read them with --data=npy:DIR",
    )
    result = np.empty(self.shape, self.dtype) if ids is None else lazy_zeros(self.shape, self.dtype)
    for block in id_blocks(len(self), ids, block_size(self)):
      result[block] = self[block]
    return result

  def reader(self, decode: bool) -> ReadImages:
    """Returns ``read``, or, unless `decode`, a function that returns the encoded images."""
    return self.read if decode else lambda _: cast(np.ndarray, self)


def of_files(
  paths: Sequence[str], shape: tuple[int, int, int], size: int | None = None
) -> EncodedImages:
  """Returns the array of the images in files, with the shape [H, W, C] after resizing."""
  return EncodedImages(
    (len(paths), *shape), lambda ids: (paths[i] for i in ids), paths.__getitem__, size
  )


def block_size(images: EncodedImages | np.ndarray) -> int:
  """Returns how many of the images [N, H, W, C] are read at once: 16 MB, or one image."""
  return max(1, _BLOCK_BYTES // (math.prod(images.shape[1:]) * images.dtype.itemsize))
