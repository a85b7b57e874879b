"""Reading examples where each of several processes needs only the images of its clients."""

import contextlib
import math
import mmap
from collections.abc import Callable, Iterator

import numpy as np

from fedjax_norm.data.examples import Examples
from fedjax_norm.errors import UserError

SelectLocal = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""(labels [N] int32, natural clients [N] int32 or None) -> the ids, ascending, of the training
examples whose images this process reads, or a boolean mask [N]. Every process of a run gets the
same labels and clients, so that all of them make the same partition."""

ReadImages = Callable[[np.ndarray | None], np.ndarray]
"""(ids of images to read, ascending, or None for all) -> all N images [N, H, W, C]; those that are
not read are zero, or remain in their file."""

_BLOCK = 1000  # images


def read_examples(
  labels: np.ndarray,
  clients: np.ndarray | None,
  read: ReadImages,
  select_local: SelectLocal | None,
  targets: np.ndarray | None = None,
) -> Examples:
  """Returns the examples of all processes, but reads only the images that this process needs.

  Args:
    labels: [N] int32.
    clients: [N] int32, the natural client of each example, or None.
    read: function that reads the images.
    select_local: choice of the examples whose images are read; None reads all images.
    targets: the targets of all examples (see :class:`Examples`), or None.

  Raises:
    UserError: `select_local` chooses no example.
  """
  if select_local is None:
    return Examples(read(None), labels, clients, targets)
  ids = np.arange(len(labels))[select_local(labels, clients)]
  if not len(ids):
    raise UserError(
      "This process has no training examples; use at most as many processes as clients."
    )
  return Examples(read(ids), labels, clients, targets)


def lazy_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Returns an array of zeros that uses host memory only for the pages that are written to."""
  size = math.prod(shape) * dtype.itemsize
  memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
  # numpy.zeros asks Linux for pages of 2 MB, all of which scattered small images would write to.
  # Systems without such pages do not know this advice.
  with contextlib.suppress(AttributeError, OSError):
    memory.madvise(mmap.MADV_NOHUGEPAGE)
  return np.frombuffer(memory, dtype).reshape(shape)


def id_blocks(count: int, ids: np.ndarray | None, size: int) -> Iterator[slice | np.ndarray]:
  """Yields the given ids of `count` images, or all for None, in blocks of at most `size`."""
  for start in range(0, count if ids is None else len(ids), size):
    block = slice(start, start + size)
    yield block if ids is None else ids[block]


def image_blocks(images: np.ndarray, ids: np.ndarray | None) -> Iterator[np.ndarray]:
  """Yields the images [N, H, W, C] with the given ids (None means all) in blocks.

  A copy of all images at the same time might not fit in the host's memory.
  """
  return (images[block] for block in id_blocks(len(images), ids, _BLOCK))
