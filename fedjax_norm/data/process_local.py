"""Training examples of one of several processes: it reads only the images of its clients."""

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
"""(ids, ascending, or None for all) -> images [N, H, W, C]; images of other ids are not read: they
are zero, or remain in their file."""

_BLOCK = 1000  # images


def read_examples(
  labels: np.ndarray,
  clients: np.ndarray | None,
  read: ReadImages,
  select_local: SelectLocal | None,
  targets: np.ndarray | None = None,
) -> Examples:
  """Reads the images that this process needs.

  Args:
    labels: [N] int32, of the examples of all processes.
    clients: [N] int32, of the examples of all processes, or None.
    read: function that reads the images.
    select_local: choice of the examples whose images are read; None reads all of them.
    targets: targets of the examples of all processes, or None.

  Raises:
    UserError: this process has no example.
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
  """Returns an array of zeros that takes memory only for the pages that are written."""
  size = math.prod(shape) * dtype.itemsize
  memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
  # numpy.zeros asks Linux for pages of 2 MB, all of which scattered small images would write to.
  # Systems without such pages do not know this advice.
  with contextlib.suppress(AttributeError, OSError):
    memory.madvise(mmap.MADV_NOHUGEPAGE)
  return np.frombuffer(memory, dtype).reshape(shape)


def image_blocks(images: np.ndarray, ids: np.ndarray | None) -> Iterator[np.ndarray]:
  """Yields the images in blocks, because a copy of the whole set may not fit in memory.

  Args:
    images: [N, H, W, C], in memory or mapped.
    ids: ids of the images to read; None is all of them.
  """
  count = len(images) if ids is None else len(ids)
  for start in range(0, count, _BLOCK):
    block = slice(start, start + _BLOCK)
    yield images[block if ids is None else ids[block]]
