"""The types that all modules share."""

from typing import Any, NamedTuple

import jax

# jax.Array or numpy.ndarray: a function accepts arrays on the device or the host, and traced ones.
Array = Any
Key = jax.Array
PyTree = Any
Variables = dict[str, PyTree]
"""A flax variable dict: ``params`` and, for norms with running statistics, ``batch_stats``."""


class Batch(NamedTuple):
  """One minibatch of fixed size B, filled up with padding examples, which are ignored.

  Attributes:
    images: [B, H, W, C] float32.
    labels: [B] int32 classes, or the targets of another objective (see ``objectives.OBJECTIVES``).
    mask: [B] float32, 1 for a real example and 0 for padding.
  """

  images: Array
  labels: Array
  mask: Array
