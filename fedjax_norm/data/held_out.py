"""Holds training examples out: a share of each client's for validation, all of unseen clients'."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from fedjax_norm.data.examples import Examples, select
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.dealing import group_by_class, round_shares
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.transforms import augment, scaling
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option

# Numbers that keep the draws of one seed independent of each other and of the partition.
_VALIDATION, _UNSEEN = 1, 2


@dataclasses.dataclass(frozen=True)
class HeldOutConfig(Options):
  """Options of the training examples that are held out."""

  group = "held-out data"

  validation_share: float | None = option(
    None,
    "Share of each client's training examples to hold out for validation, drawn with --seed in "
    "proportion to the client's classes: metrics.csv then has columns val_..., and "
    "model_best.msgpack is the model of the best round. By default none.",
    above=0,
    below=1,
  )
  unseen_clients: int = option(
    0,
    "Number of clients, drawn with --seed, that never train; the model is tested on their training "
    "examples (columns unseen_... of metrics.csv).",
    least=0,
  )

  @property
  def holds_out(self) -> bool:
    """Whether any examples are held out."""
    return self.validation_share is not None or self.unseen_clients > 0


class HeldOutExamples(NamedTuple):
  """Held-out examples, and what the examples that remain do not tell.

  The K clients that train are numbered from 0, in their order in the partition, and the U unseen
  clients from K.

  Attributes:
    validation: the examples for validation, with ``clients`` from 0 to K - 1; None without a share.
    unseen: all examples of the unseen clients, with ``clients`` from K to K + U - 1; None without
      unseen clients.
    partition_ids: [K + U] int32, each client's number in the partition of all examples.
    natural_ids: [K + U] natural client of each client (see :func:`natural_clients`), or None.
    images: the images of the clients that train, with those for validation. Statistics of them
      scale all images, so that they do not depend on the seed of the validation examples.
  """

  validation: Examples | None
  unseen: Examples | None
  partition_ids: np.ndarray
  natural_ids: np.ndarray | None
  images: np.ndarray


def hold_out(
  train: Examples, partition: Partition, config: HeldOutConfig, seed: int
) -> tuple[Examples, Partition, HeldOutExamples]:
  """Divides training examples into those to train on and held-out ones.

  Args:
    train: N training examples.
    partition: division of the examples over all clients.
    config: the share for validation and the number of unseen clients.
    seed: seed of the draws.

  Returns:
    (the examples to train on, in the same order, their division over the clients that train, the
    held-out examples).

  Raises:
    UserError: no client is left to train, or the share is so small that no example is held out.
  """
  owners, count = partitions.owners(partition), len(partition.offsets) - 1
  drawn = draw_clients(count, config.unseen_clients, seed)
  clients = np.append(np.setdiff1d(np.arange(count), drawn), drawn).astype(np.int32)
  number = np.empty(count, np.int32)  # of each client of the partition
  number[clients] = np.arange(count)
  owners, trains = number[owners], ~np.isin(owners, drawn)
  seen, held = np.flatnonzero(trains), np.zeros(len(owners), bool)
  if config.validation_share is not None:
    chosen = draw_examples(owners[seen], train.labels[seen], config.validation_share, seed)
    held[seen[chosen]] = True

  def part(mask: np.ndarray) -> Examples:
    return select(train, np.flatnonzero(mask))._replace(clients=owners[mask])

  kept = trains & ~held
  natural = natural_clients(partition, train.clients)
  return (
    select(train, np.flatnonzero(kept)),
    _keep(partition, kept, clients[: count - len(drawn)]),
    HeldOutExamples(
      part(held) if config.validation_share is not None else None,
      part(~trains) if len(drawn) else None,
      clients,
      None if natural is None else natural[clients],
      train.images[trains] if len(drawn) else train.images,
    ),
  )


def draw_clients(count: int, unseen: int, seed: int) -> np.ndarray:
  """Returns the ids [U], ascending, of ``unseen`` random clients among ``count``.

  Raises:
    UserError: no client would remain.
  """
  if unseen >= count:
    raise UserError(
      f"--unseen_clients={unseen} leaves none of the {count} clients to train; give at most "
      f"{count - 1}."
    )
  return np.sort(np.random.default_rng((seed, _UNSEEN)).permutation(count)[:unseen])


def draw_examples(owners: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
  """Returns the ids, ascending, of random examples to hold out, stratified by client and class.

  Of n examples of a class at a client, share * n are drawn, rounded up or down so that the numbers
  of each class and of each client are also near their share. Every client keeps an example. The
  number of examples follows from the classes' sizes, so that all seeds have arrays of one shape.

  Args:
    owners: [N] client of each example.
    labels: [N] class of each example.
    share: share of the examples, above 0 and below 1.
    seed: seed of the draw.

  Raises:
    UserError: no example is drawn: the share is too small, or each client has a single example.
  """
  (_, client), (_, label) = (np.unique(a, return_inverse=True) for a in (owners, labels))
  cell, shape = label * (client.max() + 1) + client, (label.max() + 1, client.max() + 1)
  table = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
  counts = np.minimum(round_shares(share * table), table)
  for k in np.flatnonzero(counts.sum(0) == table.sum(0)):
    counts[counts[:, k].argmax(), k] -= 1
  grouped, rank = group_by_class(cell, table.ravel(), np.random.default_rng((seed, _VALIDATION)))
  drawn = np.sort(grouped[rank < np.repeat(counts.ravel(), table.ravel())])
  if not len(drawn):
    single = len(owners) == shape[1]  # every client keeps an example
    advice = "drop it, because clients have a single example" if single else "raise it"
    raise UserError(
      f"--validation_share={share:g} of {len(owners)} examples at {shape[1]} clients holds no "
      f"example out; {advice}."
    )
  return drawn


def natural_clients(partition: Partition, owners: np.ndarray | None) -> np.ndarray | None:
  """Returns the natural client of each client, [K] int32.

  The result is None if the data names no clients (``owners`` [N] is None), or the partition is
  another than by natural clients.
  """
  if owners is None:
    return None
  ids = owners[partition.order]
  first = ids[partition.offsets[:-1]]
  same = np.array_equal(ids, np.repeat(first, partitions.sizes(partition)))
  return first if same and len(np.unique(first)) == len(first) else None


def shifted(examples: Examples | None, kind: str, strengths: np.ndarray) -> Examples | None:
  """Returns float examples with their clients' feature shifts, of strengths [clients]."""
  if examples is None:
    return None
  strength = strengths[examples.clients][:, None, None, None]
  ids, key = np.arange(len(strength), dtype=np.int32), jax.random.key(0)
  images = augment.feature_shift(scaling.to_float(examples.images), kind, strength, ids, key)
  return examples._replace(images=np.asarray(images))


def _keep(partition: Partition, kept: np.ndarray, clients: np.ndarray) -> Partition:
  """Returns the division of the kept examples, renumbered, over the given clients, ascending."""
  parts = [partitions.client(partition, k) for k in clients]
  parts = [part[kept[part]] for part in parts]
  order = (np.cumsum(kept) - 1)[np.concatenate(parts)].astype(np.int32)
  return Partition(order, np.concatenate([[0], np.cumsum([len(part) for part in parts])]))
