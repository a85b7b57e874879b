"""Data that a user passes from Python: arrays as a source, and the client of each example."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_norm.data import image_decoding
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.sources.arrays import REQUIRED, make_source
from fedjax_norm.errors import UserError

Arrays = Sequence[Any]
"""(train images, train labels, test images, test labels)."""


def to_source(given: Any) -> Source:
  """Checks a user's data and returns the source of it.

  Args:
    given: a `Source`, or the arrays `(train_images, train_labels, test_images, test_labels)`:
      images [N, H, W, C] or [N, H, W], uint8 or floating from 0 to 1, and labels [N] from 0.

  Raises:
    UserError: `given` is something else, or an array has the wrong shape, dtype, length or content.
  """
  if isinstance(given, Source):
    _check(given)
    return given
  if not isinstance(given, Sequence) or len(given) != 4 or isinstance(given, str):
    raise UserError(
      f"the source must not be a {type(given).__name__}; pass the result of load_source, or four "
      "arrays: train images, train labels, test images, test labels."
    )
  try:
    arrays = dict(zip(REQUIRED, map(np.asarray, given), strict=True))
  except ValueError as error:
    raise UserError(
      f"an array of the source has parts of different shapes ({error}); give all parts one shape."
    ) from error
  return make_source("arrays", "the arrays", arrays, lambda x: image_decoding.reader(x, None), None)


def _check(source: Source) -> None:
  """Raises UserError if the images, labels and names of a user's source do not fit together."""
  shape = np.shape(source.train.images)[1:]
  for split, names in (("train", None), ("test", source.test_names)):
    part: Examples = getattr(source, split)
    images, labels, count = part.images, part.labels, len(names or source.class_names)
    if images.ndim != 4 or (images.dtype.kind != "f" and images.dtype != np.uint8):
      raise UserError(
        f"the {split} images of {source.name!r} are {images.dtype} of shape {images.shape}; they "
        "must be uint8 or floating and [N, H, W, C]."
      )
    if images.shape[1:] != shape or labels.shape != images.shape[:1]:
      raise UserError(
        f"the {split} images of {source.name!r} have shape {images.shape} and their labels "
        f"{labels.shape}; give images {shape} and one label per image."
      )
    numbered = len(labels) and labels.dtype.kind in "iu"
    if not (numbered and 0 <= labels.min() <= labels.max() < count):
      raise UserError(
        f"the {split} labels of {source.name!r} must be integers from 0 to {count - 1}, because it "
        f"has {count} class names; " + ("renumber the labels." if len(labels) else "add examples.")
      )


def to_partition(given: Any, num_examples: int) -> Partition:
  """Checks a user's partition and returns it as a ``Partition``.

  Args:
    given: a `Partition`; the client of each example, [N] integers from 0; or, for each client, the
      ids of its examples.
    num_examples: N.

  Raises:
    UserError: `given` is something else, does not give each example to exactly one client, or
      leaves a client without examples.
  """
  if isinstance(given, Partition):
    if len(given.order) != num_examples:
      raise UserError(
        f"the partition divides {len(given.order)} examples and the source has {num_examples}; "
        "make it from this source's labels."
      )
    return given
  try:
    by_client = np.ndim(given[0]) > 0
    parts = [np.asarray(part) for part in given] if by_client else [np.asarray(given)]
  except (TypeError, LookupError, ValueError):
    parts = []
  if not parts or any(p.ndim != 1 or (p.size and p.dtype.kind not in "iu") for p in parts):
    raise UserError(
      f"the partition is an unsuitable {type(given).__name__}; pass the result of make_partition, "
      "the client of each example as integers from 0 (numpy.unique(clients, "
      "return_inverse=True)[1]), or a list of each client's example ids."
    )
  ids = np.concatenate(parts).astype(np.int64)
  if len(ids) != num_examples:
    raise UserError(
      f"the partition has {len(ids)} examples and the source has {num_examples}; each example "
      "belongs to one client."
    )
  # Each client has at least one example, so ids of examples and of clients are below N.
  if ids.min() < 0 or ids.max() >= num_examples:
    wrong, what = ids[(ids < 0) | (ids >= num_examples)][0], "example" if by_client else "client"
    raise UserError(
      f"the partition names {what} {wrong}; with {num_examples} examples the numbers must be 0 to "
      f"{num_examples - 1}."
    )
  sizes = np.array([len(p) for p in parts]) if by_client else np.bincount(ids)
  if not sizes.all():
    raise UserError(
      f"the partition leaves client {sizes.argmin()} without examples; remove such clients and "
      "number the remaining clients from 0."
    )
  if by_client and np.bincount(ids).max() > 1:
    raise UserError(
      f"the partition gives example {np.bincount(ids).argmax()} twice; each example belongs "
      "to one client."
    )
  order = ids if by_client else np.argsort(ids, kind="stable")
  return Partition(order.astype(np.int32), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
