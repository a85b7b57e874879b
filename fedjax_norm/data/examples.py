"""What a data source holds: images, labels, and who owns them."""

from typing import NamedTuple

import numpy as np

from fedjax_norm.errors import UserError

MAX_SAMPLED = 1000
"""Images that `value_range` looks at, at the most."""


class Examples(NamedTuple):
  """A set of labelled images on the host.

  Attributes:
    images: [N, H, W, C]; uint8 means 0..255 (the device divides by 255), float32 is in [0, 1] as a
      rule.
    labels: [N] int32, each in [0, number of classes).
    clients: [N] int32, the natural client that each example belongs to, or None.
    targets: what a model is to say where that is not the label: [N, D] float32 numbers in their own
      units, or [N, H, W] uint8 pixel classes (``objectives.IGNORED`` where it does not matter);
      else None.
  """

  images: np.ndarray
  labels: np.ndarray
  clients: np.ndarray | None = None
  targets: np.ndarray | None = None


def sample(examples: Examples, share: float, seed: int) -> Examples:
  """A random share of the examples, in their order; a smaller one is a part of a larger one.

  Args:
    examples: N of them; what is kept is copied, of a memory map too.
    share: above 0 and up to 1; at least one example is kept.
    seed: of the choice, at least 0.

  Raises:
    UserError: the share is out of range.
  """
  if not 0 < share <= 1:
    raise UserError(f"the share of training examples is {share}; give one above 0 and up to 1.")
  total = len(examples.labels)
  chance = np.random.default_rng(seed).permutation(total)
  kept = np.sort(chance[: max(1, round(share * total))])
  return Examples(
    examples.images[kept],
    examples.labels[kept],
    None if examples.clients is None else examples.clients[kept],
    None if examples.targets is None else examples.targets[kept],
  )


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
    target_names: one name for each number or pixel class of the targets; None without targets.
  """

  name: str
  train: Examples
  test: Examples
  class_names: tuple[str, ...]
  client_names: tuple[str, ...] | None = None
  notes: tuple[str, ...] = ()
  test_names: tuple[str, ...] | None = None
  target_names: tuple[str, ...] | None = None


def value_range(images: np.ndarray, ids: np.ndarray) -> tuple[float, float]:
  """The least and the greatest value of images, by a sample of up to ``MAX_SAMPLED`` of them.

  Args:
    images: [N, H, W, C], in memory or mapped.
    ids: of those that may be read, at least one; the sample is spread evenly over them.
  """
  sampled = [images[i] for i in ids[:: -(-len(ids) // MAX_SAMPLED)]]
  return min(float(x.min()) for x in sampled), max(float(x.max()) for x in sampled)
