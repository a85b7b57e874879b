"""What a data source holds: images, labels, and who owns them."""

from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
  """A set of labelled images on the host.

  Attributes:
    images: [N, H, W, C]; uint8 means 0..255 (the device divides by 255), float32 is in [0, 1] as a
      rule.
    labels: [N] int32, each in [0, number of classes).
    clients: [N] int32, the natural client that each example belongs to, or None.
  """

  images: np.ndarray
  labels: np.ndarray
  clients: np.ndarray | None = None


class Source(NamedTuple):
  """A data set: its training and test examples and what their numbers mean.

  Attributes:
    name: the name it was loaded by.
    train: what is partitioned over the clients.
    test: what the global model is evaluated on.
    class_names: one name for each label, of the test examples too unless they have other classes.
    client_names: one name for each natural client, or None without natural clients.
    notes: what a run should tell about the data, such as what was left out; a sentence each.
    test_names: one name for each label of the test examples where their classes are others than the
      training ones, as identities to verify are; else None.
  """

  name: str
  train: Examples
  test: Examples
  class_names: tuple[str, ...]
  client_names: tuple[str, ...] | None = None
  notes: tuple[str, ...] = ()
  test_names: tuple[str, ...] | None = None
