"""Data that a user has in memory: arrays in place of a source, and who owns each example."""

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
  """The source of a user's data.

  Args:
    given: a `Source`, or the arrays `(train_images, train_labels, test_images, test_labels)`:
      images [N, H, W, C] or [N, H, W], uint8 or floating from 0 to 1, and labels [N] from 0.

  Raises:
    UserError: something else, or arrays of a wrong shape, dtype, length or content.
  """
  if isinstance(given, Source):
    _check(given)
    return given
  if not isinstance(given, Sequence) or len(given) != 4 or isinstance(given, str):
    raise UserError(
      f"the source must not be a {type(given).__name__}; pass what load_source gives, or four "
      "arrays: train images, train labels, test images, test labels."
    )
  try:
    arrays = dict(zip(REQUIRED, map(np.asarray, given), strict=True))
  except ValueError as error:
    raise UserError(f"the arrays of the source do not have one shape each ({error}).") from error
  return make_source("arrays", "the arrays", arrays, lambda x: image_decoding.reader(x, None), None)


def _check(source: Source) -> None:
  """Refuses a source of the user's own whose parts do not fit together."""
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
        f"{labels.shape}; give images {shape} and one label for each."
      )
    if (
      not len(labels)
      or labels.dtype.kind not in "iu"
      or not 0 <= labels.min() <= labels.max() < count
    ):
      raise UserError(
        f"the {split} labels of {source.name!r} must be integers from 0 to {count - 1}, for it has "
        f"{count} class names; number them so, and give at least one example."
      )


def to_partition(given: Any, num_examples: int) -> Partition:
  """The partition that a user gives.

  Args:
    given: a `Partition`; the client of each example, [N] integers from 0; or, for each client, the
      ids of its examples.
    num_examples: N.

  Raises:
    UserError: something else, or a division that does not give each example to one client and at
      least one example to each client.
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
      f"the partition must not be such a {type(given).__name__}; pass what make_partition gives, "
      "the client of each example as integers from 0 (numpy.unique(clients, "
      "return_inverse=True)[1]), or a list of each client's example ids."
    )
  ids = np.concatenate(parts).astype(np.int64)
  if len(ids) != num_examples:
    raise UserError(
      f"the partition is of {len(ids)} examples and the source has {num_examples}; each example "
      "belongs to one client."
    )
  # A client has at least one example, so that both kinds of numbers lie below N.
  if ids.min() < 0 or ids.max() >= num_examples:
    wrong, what = ids[(ids < 0) | (ids >= num_examples)][0], "example" if by_client else "client"
    raise UserError(
      f"the partition names {what} {wrong}; of {num_examples} examples the numbers are 0 to "
      f"{num_examples - 1}."
    )
  held = np.array([len(p) for p in parts]) if by_client else np.bincount(ids)
  if not held.all():
    raise UserError(
      f"the partition leaves client {held.argmin()} without examples; leave out clients that have "
      "none and number the others from 0."
    )
  if by_client and np.bincount(ids).max() > 1:
    raise UserError(
      f"the partition gives example {np.bincount(ids).argmax()} to a client twice or to two of "
      "them; each example belongs to one client."
    )
  order = ids if by_client else np.argsort(ids, kind="stable")
  return Partition(order.astype(np.int32), np.concatenate([[0], np.cumsum(held)]).astype(np.int64))
