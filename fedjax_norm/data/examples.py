"""The examples of a data source, and what they mean."""

from typing import NamedTuple

import numpy as np

from fedjax_norm.errors import UserError

MAX_SAMPLED = 1000
"""The largest number of images that `value_range` reads."""


class Examples(NamedTuple):
  """A set of labelled images on the host.

  Attributes:
    images: [N, H, W, C]; uint8 from 0 to 255 (the device divides by 255), or float32, usually in
      [0, 1].
    labels: [N] int32, each in [0, number of classes).
    clients: [N] int32, the natural client of each example, or None.
    targets: what a model predicts if that is not the label: [N, D] float32 numbers in their units,
      or [N, H, W] uint8 pixel classes (``objectives.IGNORED`` for pixels that do not count); else
      None.
  """

  images: np.ndarray
  labels: np.ndarray
  clients: np.ndarray | None = None
  targets: np.ndarray | None = None


def sample(examples: Examples, share: float, seed: int) -> Examples:
  """Draws a share of the examples at random and copies them, in their order.

  With one seed, a smaller sample is a subset of a larger one.

  Args:
    examples: N examples, possibly memory-mapped.
    share: the share to draw, above 0 and up to 1; at least one example is drawn.
    seed: seed of the draw, at least 0.

  Raises:
    UserError: the share is out of range.
  """
  if not 0 < share <= 1:
    raise UserError(f"the share of training examples is {share}; give one above 0 and up to 1.")
  total = len(examples.labels)
  shuffled = np.random.default_rng(seed).permutation(total)
  ids = np.sort(shuffled[: max(1, round(share * total))])
  clients, targets = examples.clients, examples.targets
  return Examples(
    examples.images[ids],
    examples.labels[ids],
    None if clients is None else clients[ids],
    None if targets is None else targets[ids],
  )


class Source(NamedTuple):
  """A data set: training and test examples and the meaning of their numbers.

  Attributes:
    name: the name of the source.
    train: the examples that are partitioned over the clients.
    test: the examples that the global model is evaluated on.
    class_names: one name per label; of the test labels too, unless `test_names` is given.
    client_names: one name per natural client, or None.
    notes: remarks that a run prints about the data, such as what was left out; one sentence each.
    test_names: one name per label of the test examples if their classes differ from the training
      classes, as with identities to verify; else None.
    target_names: one name per number or pixel class of the targets; None without targets.
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
  """Returns the smallest and the largest value in a sample of at most ``MAX_SAMPLED`` images.

  Args:
    images: [N, H, W, C], in memory or mapped.
    ids: ids of the images that may be read, at least one; the sample is spread evenly over them.
  """
  sampled = [images[i] for i in ids[:: -(-len(ids) // MAX_SAMPLED)]]
  return min(float(x.min()) for x in sampled), max(float(x.max()) for x in sampled)
