"""The partitioned data on the device, and how a client draws its batches from it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.examples import Examples
from fedjax_norm.data.partition import Partition
from fedjax_norm.data.shuffle import permuted
from fedjax_norm.keys import Stream, stream
from fedjax_norm.typing import Array, Batch, Key

Transform = Callable[[Array, Array, Array, Key, Key], Array]
"""(stored images [B, H, W, C], example ids [B], the client's feature strength, the key of its
noise, the step's key) -> float images [B, H, W, C]; see ``preprocess.py``."""


class FederatedData(NamedTuple):
  """All clients' training data: one copy of the examples and one permutation of their ids.

  Attributes:
    images: [N, H, W, C], as stored.
    labels: [N] int32.
    order: [N] int32, example ids, client after client.
    offsets: [K] int32, where each client's ids begin.
    sizes: [K] int32, each client's number of examples.
    strengths: [K] float32, how far each client's features are shifted; 0 is not at all.
  """

  images: Array
  labels: Array
  order: Array
  offsets: Array
  sizes: Array
  strengths: Array

  @property
  def num_clients(self) -> int:
    """K."""
    return self.sizes.shape[0]


def federate(
  examples: Examples, partition: Partition, strengths: np.ndarray | None = None
) -> FederatedData:
  """Puts examples and their partition together, as host arrays; the caller places them.

  Args:
    examples: of all clients.
    partition: of their ids.
    strengths: [K] of the feature shift, if there is one.
  """
  sizes = np.diff(partition.offsets).astype(np.int32)
  return FederatedData(
    images=examples.images,
    labels=examples.labels.astype(np.int32),
    order=partition.order.astype(np.int32),
    offsets=partition.offsets[:-1].astype(np.int32),
    sizes=sizes,
    strengths=np.zeros(len(sizes), np.float32) if strengths is None else strengths,
  )


def label_counts(data: FederatedData, clients: np.ndarray, num_classes: int) -> np.ndarray:
  """The training examples of some clients by class: [k, C], on the host."""
  starts, ends = data.offsets[clients], data.offsets[clients] + data.sizes[clients]
  labels = (data.labels[data.order[a:b]] for a, b in zip(starts, ends, strict=True))
  return np.stack([np.bincount(own, minlength=num_classes) for own in labels])


def steps_per_epoch(sizes: Array, batch_size: int) -> Array:
  """The number of batches that hold every example once; the last may be smaller."""
  return -(-sizes // batch_size)


def draw(
  data: FederatedData,
  client: Array,
  step: Array,
  batch_size: int,
  transform: Transform,
  key: Key,
) -> Batch:
  """The batch of a client at one of its steps.

  Step by step a client goes through its examples in epochs, each in a new order; the last batch of
  an epoch holds what is left, padded and masked. The batch is a function of the client, the step
  and the key alone, so steps are counted whether or not the client takes part in a round.

  Args:
    data: the federation.
    client: its id, int32 scalar.
    step: the client's step, counted from the start of training, int32 scalar.
    batch_size: static.
    transform: makes float images of the stored ones.
    key: of the run; order and augmentation derive from it, the client and the step.
  """
  client_key = jax.random.fold_in(stream(key, Stream.DATA), client)
  shuffle_key, transform_key = jax.random.split(client_key)
  size = data.sizes[client]
  epoch, index = jnp.divmod(step, steps_per_epoch(size, batch_size))
  positions = index * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
  mask = positions < size
  places = permuted(jax.random.fold_in(shuffle_key, epoch), positions, size)
  ids = data.order[data.offsets[client] + jnp.where(mask, places, 0)]
  step_key = jax.random.fold_in(transform_key, step)
  noise_key = stream(key, Stream.NOISE)
  images = transform(data.images[ids], ids, data.strengths[client], noise_key, step_key)
  return Batch(images, data.labels[ids], mask.astype(jnp.float32))


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
