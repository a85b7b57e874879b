"""The types that every layer shares."""

from typing import Any, NamedTuple

import jax

# jax.Array or numpy.ndarray: the same functions serve the device, the host and traced values.
Array = Any
Key = jax.Array
PyTree = Any
Variables = dict[str, PyTree]
"""A flax variable dict: ``params`` and, for norms with running statistics, ``batch_stats``."""


class Batch(NamedTuple):
  """One minibatch of static size; what the mask leaves out does not exist.

  Attributes:
    images: [B, H, W, C] float32.
    labels: [B] int32; of other objectives than classification their targets (``objectives.py``).
    mask: [B] float32, 1 for an example and 0 for padding.
  """

  images: Array
  labels: Array
  mask: Array
