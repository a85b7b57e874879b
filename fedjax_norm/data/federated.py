"""The training examples of all or some clients, and how a client draws its batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.example_order import FOREVER, ExampleOrder, arrange
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.shuffle import permute
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Batch, Key

Transform = Callable[[Array, Array, Array, Key, Key], Array]
"""(stored images [B, H, W, C], example ids [B], strength of the client's feature shift, key of the
shift's noise, key of the step) -> float images [B, H, W, C]; see ``transforms/preprocess.py``."""

ROW_FIELDS = (
  "clients", "offsets", "sizes", "strengths", "block_sizes", "num_stretches", "stretch_steps",
  "keeps_stretches",
)  # fmt: skip
"""The fields of ``FederatedData`` with one entry per row, which is a client."""


class FederatedData(NamedTuple):
  """M training examples, and a table with R rows, one per client.

  The whole federation is in host arrays: all examples in the order of their source, so that
  memory-mapped images stay in their file, and client k in row k. A device may get only a part of
  it: the rows of some clients, in any order (:func:`rows`), and their examples (:func:`gather`).

  Attributes:
    images: [M, H, W, C] uint8 or float32, as in the source.
    labels: [M] int32, the true classes.
    targets: [M, ...], what models are trained to predict; for classification the labels, with
      hidden ones replaced (``partitions/hidden_labels.py``).
    ids: [M] int32, the examples' ids in the whole federation.
    order: [M] int32, indices into the examples, client after client.
    clients: [R] int32, the client of each row.
    offsets: [R] int32, the position in ``order`` of each client's first example.
    sizes: [R] int32, the number of each client's examples.
    strengths: [R] float32, the strength of each client's feature shift; 0 is no shift.
    block_sizes: [R] int32, the number of consecutive examples that stay together in an epoch; 1
      shuffles all examples (``example_order.py``).
    num_stretches: [R] int32, the number of stretches of examples that a client draws from in turn;
      1 is no drift.
    stretch_steps: [R] int32, the number of local steps before drift changes the stretch.
    keeps_stretches: [R] bool, whether a client also draws from all earlier stretches, and from the
      last one to the end of training.
  """

  images: Array
  labels: Array
  targets: Array
  ids: Array
  order: Array
  clients: Array
  offsets: Array
  sizes: Array
  strengths: Array
  block_sizes: Array
  num_stretches: Array
  stretch_steps: Array
  keeps_stretches: Array

  @property
  def num_rows(self) -> int:
    """The number R of rows."""
    return self.sizes.shape[0]

  @property
  def num_clients(self) -> int:
    """The number K of clients of a whole federation, which has one row per client."""
    return self.num_rows

  @property
  def example_bytes(self) -> int:
    """Host bytes of one image and its target; a target that is only the label counts 0."""
    targets = 0 if self.targets is self.labels else self.targets[0].nbytes
    return self.images[0].nbytes + targets


def federate(
  examples: Examples,
  partition: Partition,
  strengths: np.ndarray | None = None,
  order: ExampleOrder | None = None,
  targets: np.ndarray | None = None,
  stretch_steps: int | np.ndarray = FOREVER,
) -> FederatedData:
  """Returns the whole federation as host arrays; contiguous images are not copied.

  Args:
    examples: the training examples of all clients.
    partition: the division of the examples over the clients.
    strengths: [K] the strength of each client's feature shift; None is no shift.
    order: options of the order in which each client goes through its examples; None is random.
    targets: [N, ...] what models are trained to predict; None is the labels.
    stretch_steps: local steps before drift changes the stretch, for all clients or [K]
      (``example_order.steps_per_stretch``).
  """
  labels = examples.labels.astype(np.int32, copy=False)
  sizes = np.diff(partition.offsets).astype(np.int32)
  num_clients = len(sizes)
  arranged = arrange(partition, examples.labels, order or ExampleOrder(), stretch_steps)
  return FederatedData(
    images=np.ascontiguousarray(examples.images),
    labels=labels,
    targets=labels if targets is None else targets,
    ids=np.arange(len(examples.labels), dtype=np.int32),
    clients=np.arange(num_clients, dtype=np.int32),
    offsets=partition.offsets[:-1].astype(np.int32),
    sizes=sizes,
    strengths=np.zeros(num_clients, np.float32) if strengths is None else strengths,
    **arranged._asdict(),
  )


def without_drift(data: FederatedData) -> FederatedData:
  """Returns the data without drift: every step draws from all examples of the client."""
  return data._replace(num_stretches=0 * data.num_stretches + 1)


def rows(data: FederatedData, index: np.ndarray) -> FederatedData:
  """Returns host data with all examples but only the rows ``index`` [R], possibly repeated."""
  return data._replace(**{name: getattr(data, name)[index] for name in ROW_FIELDS})


def gather(data: FederatedData, index: np.ndarray, capacity: int) -> FederatedData:
  """Copies some rows and only the examples of these clients, into host arrays.

  Args:
    data: host arrays; only the images of these clients are read.
    index: [R] indices of distinct rows.
    capacity: number of examples in the result; it ends with zeros if the clients have fewer.
  """
  part = rows(data, index)
  ends = np.cumsum(part.sizes, dtype=np.int64)
  starts = ends - part.sizes
  total = int(ends[-1])
  owned = data.order[np.repeat(part.offsets - starts, part.sizes) + np.arange(total)]
  # In the order of the source, so that a file is read from front to back.
  order = np.argsort(owned, kind="stable")
  wanted = owned[order]

  def copy(values: np.ndarray) -> np.ndarray:
    out = np.zeros((capacity, *values.shape[1:]), values.dtype)
    # "clip" skips NumPy's bounds check and its temporary copy; the indices are valid.
    values.take(wanted, 0, out[:total], "clip")
    return out

  rank = np.zeros(capacity, np.int32)
  rank[order] = np.arange(total, dtype=np.int32)
  return part._replace(
    images=copy(data.images),
    labels=copy(data.labels),
    targets=copy(data.targets),
    ids=copy(data.ids),
    order=rank,
    offsets=starts.astype(np.int32),
  )


def label_counts(data: FederatedData, clients: np.ndarray, num_classes: int) -> np.ndarray:
  """Returns the number of examples of each class at k clients, with hidden labels: [k, C] int64."""
  starts, ends = data.offsets[clients], data.offsets[clients] + data.sizes[clients]
  labels = (data.labels[data.order[a:b]] for a, b in zip(starts, ends, strict=True))
  return np.stack([np.bincount(part, minlength=num_classes) for part in labels])


def steps_per_epoch(sizes: Array, batch_size: int) -> Array:
  """Returns the number of batches in each client's epoch; the last batch may be smaller."""
  return -(-sizes // batch_size)


def draw(
  data: FederatedData,
  row: Array,
  step: Array,
  batch_size: int,
  transform: Transform,
  key: Key,
  take: Array | None = None,
) -> Batch:
  """Draws the batch that a client trains on at one local step.

  A client goes through its examples in epochs, each in a new order; the last batch of an epoch
  has the remaining examples and is padded and masked. The batch depends only on the client, the
  step and the key. Steps are counted also in rounds in which the client does not take part.

  With blocks of several examples, epochs shuffle the blocks but not the examples in a block. With
  drift, step t draws from stretch floor(t / stretch_steps) mod num_stretches; a client that returns
  to a stretch resumes its epoch there. A client that keeps its stretches draws from the first
  floor(t / stretch_steps) + 1 of them, in new epochs whenever it has gained one.

  Args:
    data: the federation, or a part of it.
    row: the client's row in `data`, int32 scalar.
    step: the client's local step, counted from the start of training, int32 scalar.
    batch_size: number of examples of a batch, static.
    transform: function from stored images to float images.
    key: key of the run; shuffling and augmentation derive from it, the client and the step.
    take: number of examples to draw, int32 scalar; padding fills the batch. None: `batch_size`.
  """
  take = batch_size if take is None else take
  client_key = jax.random.fold_in(stream(key, Stream.DATA), data.clients[row])
  shuffle_key, transform_key = jax.random.split(client_key)
  visit, step_of_visit = jnp.divmod(step, data.stretch_steps[row])
  earlier, stretch, start, size = _stretch(data, row, visit)
  step_of_stretch = earlier * data.stretch_steps[row] + step_of_visit
  epoch, index = jnp.divmod(step_of_stretch, steps_per_epoch(size, take))
  slots = jnp.arange(batch_size, dtype=jnp.int32)
  positions = index * take + slots
  mask = (positions < size) & (slots < take)
  epoch_key = jax.random.fold_in(shuffle_key, epoch * data.num_stretches[row] + stretch)
  num_blocks = jnp.maximum(size // data.block_sizes[row], 1)
  block, within = jnp.divmod(positions, data.block_sizes[row])
  block = jnp.where(block < num_blocks, permute(epoch_key, block, num_blocks), block)
  positions = start + jnp.where(mask, block * data.block_sizes[row] + within, 0)
  return _batch(data, row, positions, mask, transform, key, jax.random.fold_in(transform_key, step))


def sample(
  data: FederatedData, row: Array, step: Array, count: int, transform: Transform, key: Key
) -> Batch:
  """Draws `count` (static) random examples of a client without replacement, anew for each step.

  With drift, the examples are those of the stretch of this step. The batch is padded if there are
  fewer. The other arguments are those of :func:`draw`.
  """
  _, _, start, size = _stretch(data, row, step // data.stretch_steps[row])
  sample_key = jax.random.fold_in(stream(key, Stream.SAMPLE), data.clients[row])
  sample_key = jax.random.fold_in(sample_key, step)
  positions = jnp.arange(count, dtype=jnp.int32)
  mask = positions < size
  positions = start + jnp.where(mask, permute(sample_key, positions, size), 0)
  return _batch(data, row, positions, mask, transform, key, sample_key)


def _stretch(data: FederatedData, row: Array, visit: Array) -> tuple[Array, Array, Array, Array]:
  """Returns the stretch that a client draws from after `visit` changes of stretch.

  The four numbers are earlier visits to this stretch, its index, its first position and its size;
  if the client keeps its stretches, position and size are those of all of them together.
  """
  keeps, count = data.keeps_stretches[row], data.num_stretches[row]
  earlier, stretch = jnp.divmod(visit, count)
  last = jnp.minimum(visit, count - 1)
  earlier, stretch = jnp.where(keeps, visit - last, earlier), jnp.where(keeps, last, stretch)
  base, longer = jnp.divmod(data.sizes[row], count)
  start, size = stretch * base + jnp.minimum(stretch, longer), base + (stretch < longer)
  return earlier, stretch, jnp.where(keeps, 0, start), jnp.where(keeps, start + size, size)


def _batch(
  data: FederatedData,
  row: Array,
  positions: Array,
  mask: Array,
  transform: Transform,
  key: Key,
  step_key: Key,
) -> Batch:
  """Returns the batch of the examples at these positions of the client's part of `data.order`."""
  index = data.order[data.offsets[row] + positions]
  images = transform(
    data.images[index], data.ids[index], data.strengths[row], stream(key, Stream.NOISE), step_key
  )
  return Batch(images, data.targets[index], mask.astype(jnp.float32))
