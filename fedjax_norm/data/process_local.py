"""Which training images a process reads: all of them, or those of its own nodes alone."""

import contextlib
import math
import mmap
from collections.abc import Callable, Iterator

import numpy as np

from fedjax_norm.data.examples import Examples
from fedjax_norm.errors import UserError

SelectLocal = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""(labels [N] int32, natural clients [N] int32 or None) -> the ids of the training examples whose
images this process reads, ascending, or a truth value for each example. Every process of a run
gets the same labels and clients, so that all of them make the same partition."""

Read = Callable[[np.ndarray | None], np.ndarray]
"""(ids, ascending, or None for all) -> [N, H, W, C]; the other examples' images are not read: they
are zero, or remain in their file."""

_BLOCK = 1000  # images


def examples(
  labels: np.ndarray,
  clients: np.ndarray | None,
  read: Read,
  select_local: SelectLocal | None,
  targets: np.ndarray | None = None,
) -> Examples:
  """Reads the images that this process needs; here alone is decided which.

  Args:
    labels: [N] int32, of all examples.
    clients: [N] int32, of all examples, or None.
    read: the images.
    select_local: chooses the examples; None reads all of them.
    targets: of all examples, or None.

  Raises:
    UserError: the process has no example of its own.
  """
  if select_local is None:
    return Examples(read(None), labels, clients, targets)
  ids = np.arange(len(labels))[select_local(labels, clients)]
  if not len(ids):
    raise UserError(
      "This process has no training examples of its own; use at most as many processes as nodes."
    )
  return Examples(read(ids), labels, clients, targets)


def blank(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Makes an array of zeros that takes memory only where it is written, page by page."""
  size = math.prod(shape) * dtype.itemsize
  memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
  # Not numpy.zeros, which asks Linux for pages of 2 MB: small images here and there write to all
  # of them. Systems that have no such pages know no such advice.
  with contextlib.suppress(AttributeError, OSError):
    memory.madvise(mmap.MADV_NOHUGEPAGE)
  return np.frombuffer(memory, dtype).reshape(shape)


def blocks(images: np.ndarray, ids: np.ndarray | None) -> Iterator[np.ndarray]:
  """Gives the images in blocks, for a copy of a whole set may not fit in memory.

  Args:
    images: [N, H, W, C], in memory or mapped.
    ids: of the images, which alone are read; None is all of them.
  """
  count = len(images) if ids is None else len(ids)
  for start in range(0, count, _BLOCK):
    place = slice(start, start + _BLOCK)
    yield images[place if ids is None else ids[place]]
