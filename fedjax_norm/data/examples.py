"""The training and test examples of a data source, and the names of their labels."""

from typing import NamedTuple

import numpy as np

from fedjax_norm import host_memory
from fedjax_norm.errors import UserError

MAX_SAMPLED = 1000
"""The largest number of images that `value_range` reads."""


class Examples(NamedTuple):
  """A set of labelled images on the host.

  Attributes:
    images: [N, H, W, C]; uint8 from 0 to 255 (the device divides by 255), or float32, usually in
      [0, 1].
    labels: [N] int32, each in [0, number of classes).
    clients: [N] int32, the natural client of each example (the one that the data names), or None;
      -1 for a test example of an unknown client, or of one without training examples.
    targets: what a model predicts instead of the label, or None: for regression [N, D] float32
      numbers in their original units; for segmentation [N, H, W] uint8 classes of the pixels
      (``objectives.IGNORED`` for pixels that do not count).
  """

  images: np.ndarray
  labels: np.ndarray
  clients: np.ndarray | None = None
  targets: np.ndarray | None = None


def sample(examples: Examples, share: float, seed: int) -> Examples:
  """Returns copies of a random share of the examples, in the order of the source.

  With the same seed, the sample of a smaller share is a subset of that of a larger share.

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
  return select(examples, np.sort(shuffled[: max(1, round(share * total))]))


def select(examples: Examples, ids: np.ndarray) -> Examples:
  """Returns copies of the examples ``ids`` [n]."""
  parts = {name: part for name, part in examples._asdict().items() if part is not None}
  return Examples(**{name: part[ids] for name, part in parts.items()})


class Source(NamedTuple):
  """A data set: its training and test examples, and the names of its classes and clients.

  Attributes:
    name: the name of the source.
    train: the examples that are partitioned over the clients.
    test: the examples that the global model is evaluated on.
    class_names: one name per training label, and per test label if `test_names` is None.
    client_names: one name per natural client; None if the data names no clients.
    notes: remarks that a run prints about the data, such as what was left out; one sentence each.
    test_names: one name per test label if the test classes differ from the training classes, as
      with identities to verify; else None.
    target_names: one name per number (regression) or pixel class (segmentation) of the targets;
      None without targets.
  """

  name: str
  train: Examples
  test: Examples
  class_names: tuple[str, ...]
  client_names: tuple[str, ...] | None = None
  notes: tuple[str, ...] = ()
  test_names: tuple[str, ...] | None = None
  target_names: tuple[str, ...] | None = None


def first_classes(source: Source, count: int) -> Source:
  """Returns a copy of the source that has only the examples of its first ``count`` classes.

  Natural clients without an example of them are left out.

  Raises:
    UserError: the source has no more than ``count`` classes, targets, other test classes than
      training classes, or no training or test example of the first classes.
  """
  if source.train.targets is not None:
    raise UserError("--first_classes is for classification; drop it.")
  if source.test_names is not None:
    raise UserError(
      f"the test classes of {source.name} are not its training classes, and --first_classes cannot "
      "choose among both; drop it."
    )
  if count >= len(source.class_names):
    raise UserError(
      f"--first_classes is {count}, but {source.name} has {len(source.class_names)} classes; give "
      "fewer or drop it."
    )
  parts = {}
  for kind, part in {"training": source.train, "test": source.test}.items():
    ids = np.flatnonzero(part.labels < count)
    if not len(ids):
      raise UserError(
        f"{source.name} has no {kind} example of its first {count} classes; raise --first_classes."
      )
    host_memory.check(
      len(ids) * part.images[:1].nbytes,
      f"a copy of the {kind} images of the first {count} classes",
      "choose fewer --first_classes",
    )
    parts[kind] = select(part, ids)
  train, test = parts.values()
  source = source._replace(train=train, test=test, class_names=source.class_names[:count])
  if train.clients is None or source.client_names is None:
    return source
  present, clients = np.unique(train.clients, return_inverse=True)
  source = source._replace(
    train=train._replace(clients=clients.astype(np.int32)),
    client_names=tuple(source.client_names[k] for k in present),
  )
  if test.clients is None:
    return source
  positions = np.searchsorted(present, test.clients)
  numbers = np.where(np.isin(test.clients, present), positions, -1).astype(np.int32)
  return source._replace(test=test._replace(clients=numbers))


def value_range(images: np.ndarray, ids: np.ndarray) -> tuple[float, float]:
  """Returns the smallest and the largest value in a sample of at most ``MAX_SAMPLED`` images.

  ``ids`` are the ids of the images [N, H, W, C] that may be read, at least one; the sample is
  evenly spaced over them.
  """
  sampled = [images[i] for i in ids[:: -(-len(ids) // MAX_SAMPLED)]]
  return min(float(x.min()) for x in sampled), max(float(x.max()) for x in sampled)
