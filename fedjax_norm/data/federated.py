"""The partitioned data, the part of it that some clients need, and how a client draws batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.batch_order import FOREVER, Order, arrange
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.shuffle import permuted
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Batch, Key

Transform = Callable[[Array, Array, Array, Key, Key], Array]
"""(stored images [B, H, W, C], example ids [B], the client's feature strength, the key of its
noise, the step's key) -> float images [B, H, W, C]; see ``preprocess.py``."""


TABLE = ("clients", "offsets", "sizes", "strengths", "blocks", "stretches", "spans")
"""The fields of a ``FederatedData`` that have a row a client."""


class FederatedData(NamedTuple):
  """Clients and their training data: M examples once, and a table with a row a client.

  On the host this is the whole federation: all N examples in their source's order, so that a memory
  map stays one, and client k in row k. What a program reads on the device may be a part of it: the
  rows of some clients, in any order (:func:`rows`), and with them their examples alone
  (:func:`gather`).

  Attributes:
    images: [M, H, W, C], as stored.
    labels: [M] int32, by which examples are counted.
    targets: [M, ...], what a model is to say of them; of classification the labels themselves, but
      for those that clients do not know (``unlabelled.py``).
    ids: [M] int32, what the examples are called in the whole federation.
    order: [M] int32, places of the examples, client after client.
    clients: [R] int32, the client of each row.
    offsets: [R] int32, where in ``order`` each row's examples begin.
    sizes: [R] int32, how many they are.
    strengths: [R] float32, how far each client's features are shifted; 0 is not at all.
    blocks: [R] int32, examples that stay together in an epoch; 1 shuffles them all (``order.py``).
    stretches: [R] int32, the parts of a client's examples that it draws from in turn; 1 is no
      drift.
    spans: [R] int32, the steps that each part lasts.
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
  blocks: Array
  stretches: Array
  spans: Array

  @property
  def num_rows(self) -> int:
    """R, of a part of the federation."""
    return self.sizes.shape[0]

  @property
  def num_clients(self) -> int:
    """K, of the whole federation, which has a row for each client."""
    return self.num_rows

  @property
  def example_bytes(self) -> int:
    """Of an image and of its targets, where they are not the labels; on the host."""
    targets = 0 if self.targets is self.labels else self.targets[0].nbytes
    return self.images[0].nbytes + targets


def federate(
  examples: Examples,
  partition: Partition,
  strengths: np.ndarray | None = None,
  order: Order | None = None,
  targets: np.ndarray | None = None,
  span: int | np.ndarray = FOREVER,
) -> FederatedData:
  """Puts examples and their partition together, as host arrays.

  The images are not copied if they lie row after row, as those of a file do.

  Args:
    examples: of all clients.
    partition: of their ids.
    strengths: [K] of the feature shift, if there is one.
    order: how each client goes through its examples; None is at random.
    targets: [N, ...] of the examples as they are trained on; None is their labels.
    span: the local steps that a stretch of a drift lasts (``order.span``), for all clients or [K].
  """
  labels = examples.labels.astype(np.int32, copy=False)
  sizes = np.diff(partition.offsets).astype(np.int32)
  num_clients = len(sizes)
  arranged = arrange(partition, examples.labels, order or Order(), span)
  return FederatedData(
    images=np.ascontiguousarray(examples.images),
    labels=labels,
    targets=labels if targets is None else targets,
    ids=np.arange(len(examples.labels), dtype=np.int32),
    order=arranged.order,
    clients=np.arange(num_clients, dtype=np.int32),
    offsets=partition.offsets[:-1].astype(np.int32),
    sizes=sizes,
    strengths=np.zeros(num_clients, np.float32) if strengths is None else strengths,
    blocks=arranged.blocks,
    stretches=arranged.stretches,
    spans=arranged.spans,
  )


def steady(data: FederatedData) -> FederatedData:
  """The same without drift: what is drawn is all of a client's data, whatever the step."""
  return data._replace(stretches=0 * data.stretches + 1)


def rows(data: FederatedData, index: np.ndarray) -> FederatedData:
  """The same examples under a table of some of the rows.

  Args:
    data: host arrays.
    index: [R] of the rows, repeats allowed.
  """
  return data._replace(**{name: getattr(data, name)[index] for name in TABLE})


def gather(data: FederatedData, index: np.ndarray, capacity: int) -> FederatedData:
  """Some rows with their examples alone, copied out of the whole.

  Args:
    data: host arrays; of the images only what belongs to these rows is read.
    index: [R] distinct rows.
    capacity: how many examples the result has room for; what is left over is zero.

  Returns:
    Host arrays of R rows and ``capacity`` examples.
  """
  part = rows(data, index)
  ends = np.cumsum(part.sizes, dtype=np.int64)
  starts = ends - part.sizes
  total = int(ends[-1])
  owned = data.order[np.repeat(part.offsets - starts, part.sizes) + np.arange(total)]
  # In the source's order, so that a file is read from front to back.
  order = np.argsort(owned, kind="stable")
  places = owned[order]

  def taken(values: np.ndarray) -> np.ndarray:
    out = np.zeros((capacity, *values.shape[1:]), values.dtype)
    # The places are sound; numpy is fast, and makes no copy between, only where it need not check.
    values.take(places, 0, out[:total], "clip")
    return out

  rank = np.zeros(capacity, np.int32)
  rank[order] = np.arange(total, dtype=np.int32)
  return part._replace(
    images=taken(data.images),
    labels=taken(data.labels),
    targets=taken(data.targets),
    ids=taken(data.ids),
    order=rank,
    offsets=starts.astype(np.int32),
  )


def label_counts(data: FederatedData, clients: np.ndarray, num_classes: int) -> np.ndarray:
  """The training examples of some clients by class, known to them or not: [k, C], on the host."""
  starts, ends = data.offsets[clients], data.offsets[clients] + data.sizes[clients]
  labels = (data.labels[data.order[a:b]] for a, b in zip(starts, ends, strict=True))
  return np.stack([np.bincount(own, minlength=num_classes) for own in labels])


def steps_per_epoch(sizes: Array, batch_size: int) -> Array:
  """The number of batches that hold every example once; the last may be smaller."""
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
  """The batch of a client at one of its steps.

  Step by step a client goes through its examples in epochs, each in a new order; the last batch of
  an epoch holds what is left, padded and masked. The batch is a function of the client, the step
  and the key alone, so steps are counted whether or not the client takes part in a round.

  In blocks of b examples, whole blocks are shuffled and those of a block stay in line. With drift,
  step t belongs to stretch floor(t / span) mod the number of stretches, whose epochs go on where
  they were when the client comes back to it.

  Args:
    data: the federation, or a part of it.
    row: the client's row in it, int32 scalar.
    step: the client's step, counted from the start of training, int32 scalar.
    batch_size: static.
    transform: makes float images of the stored ones.
    key: of the run; order and augmentation derive from it, the client and the step.
    take: how many places of a batch are filled, int32 scalar; None is all of them.
  """
  take = batch_size if take is None else take
  client_key = jax.random.fold_in(stream(key, Stream.DATA), data.clients[row])
  shuffle_key, transform_key = jax.random.split(client_key)
  visit, step_of_visit = jnp.divmod(step, data.spans[row])
  earlier, stretch, begin, size = _stretch(data, row, visit)
  epoch, index = jnp.divmod(earlier * data.spans[row] + step_of_visit, steps_per_epoch(size, take))
  place = jnp.arange(batch_size, dtype=jnp.int32)
  positions = index * take + place
  mask = (positions < size) & (place < take)
  epoch_key = jax.random.fold_in(shuffle_key, epoch * data.stretches[row] + stretch)
  blocks = jnp.maximum(size // data.blocks[row], 1)
  block, within = jnp.divmod(positions, data.blocks[row])
  block = jnp.where(block < blocks, permuted(epoch_key, block, blocks), block)
  places = begin + jnp.where(mask, block * data.blocks[row] + within, 0)
  return _batch(data, row, places, mask, transform, key, jax.random.fold_in(transform_key, step))


def sample(
  data: FederatedData, row: Array, step: Array, count: int, transform: Transform, key: Key
) -> Batch:
  """Some of what a client draws from at one of its steps, at random and without replacement.

  Args:
    data: the federation, or a part of it.
    row: the client's row in it, int32 scalar.
    step: the client's step, int32 scalar; each has a sample of its own.
    count: how many examples, static; what the client lacks is padding.
    transform: makes float images of the stored ones.
    key: of the run.
  """
  _, _, begin, size = _stretch(data, row, step // data.spans[row])
  sample_key = jax.random.fold_in(stream(key, Stream.SAMPLE), data.clients[row])
  sample_key = jax.random.fold_in(sample_key, step)
  positions = jnp.arange(count, dtype=jnp.int32)
  mask = positions < size
  places = begin + jnp.where(mask, permuted(sample_key, positions, size), 0)
  return _batch(data, row, places, mask, transform, key, sample_key)


def _stretch(data: FederatedData, row: Array, visit: Array) -> tuple[Array, Array, Array, Array]:
  """(earlier visits to the same stretch, which it is, its first place, its examples)."""
  earlier, stretch = jnp.divmod(visit, data.stretches[row])
  base, longer = jnp.divmod(data.sizes[row], data.stretches[row])
  return earlier, stretch, stretch * base + jnp.minimum(stretch, longer), base + (stretch < longer)


def _batch(data, row, places, mask, transform: Transform, key: Key, step_key: Key) -> Batch:
  """The examples at some places of a client's."""
  places = data.order[data.offsets[row] + places]
  images = transform(
    data.images[places], data.ids[places], data.strengths[row], stream(key, Stream.NOISE), step_key
  )
  return Batch(images, data.targets[places], mask.astype(jnp.float32))


def cohorts(key: Key, first_round: Array, rounds: int, num_clients: int, size: int) -> Array:
  """The clients of some rounds, each round's drawn without replacement.

  Args:
    key: of the run; a cohort depends on it and on the round alone.
    first_round: int32 scalar.
    rounds: how many, static.
    num_clients: K, static.
    size: clients a round, static; all of them take part in the order of their ids when it is K.

  Returns:
    [rounds, size] int32 client ids.
  """
  ids = jnp.arange(size, dtype=jnp.int32)
  if size == num_clients:
    return jnp.broadcast_to(ids, (rounds, size))

  cohort_key = stream(key, Stream.COHORT)

  def one(index: Array) -> Array:
    return permuted(jax.random.fold_in(cohort_key, first_round + index), ids, num_clients)

  return jax.vmap(one)(jnp.arange(rounds, dtype=jnp.int32))
