"""The types that all modules share."""

from typing import Any, NamedTuple

import jax

# jax.Array or numpy.ndarray: the same functions accept device, host and traced arrays.
Array = Any
Key = jax.Array
PyTree = Any
Variables = dict[str, PyTree]
"""A flax variable dict: ``params`` and, for norms with running statistics, ``batch_stats``."""


class Batch(NamedTuple):
  """One minibatch of static size, padded with examples that are ignored.

  Attributes:
    images: [B, H, W, C] float32.
    labels: [B] int32; the targets, for objectives other than classification (``objectives.py``).
    mask: [B] float32, 1 for a real example and 0 for padding.
  """

  images: Array
  labels: Array
  mask: Array
