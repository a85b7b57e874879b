"""Holds training examples out: a share of each client's for validation, all of unseen clients'."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedjax_norm.data.examples import Examples, select
from fedjax_norm.data.names import join_first, normalize
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
  unseen_clients: int | str = option(
    0,
    "Clients that never train: their number, to draw them with --seed, or names of natural clients "
    "separated by commas, the same for all seeds (a single name that is a number as '3,'). The "
    "model is tested on their training examples (columns unseen_... of metrics.csv) and, where the "
    "data names the client of each test image, also on their test images, which the test set then "
    "lacks.",
    least=0,
  )

  @property
  def holds_out(self) -> bool:
    """Whether any examples are held out."""
    return self.validation_share is not None or self.unseen_clients != 0

  @property
  def unseen_names(self) -> tuple[str, ...]:
    """Names of the unseen clients; empty if they are drawn."""
    if not isinstance(self.unseen_clients, str):
      return ()
    names = (normalize(name.strip()) for name in self.unseen_clients.split(","))
    return tuple(dict.fromkeys(name for name in names if name))

  def check(self) -> None:
    """Raises a UserError if ``unseen_clients`` is a text without names."""
    if isinstance(self.unseen_clients, str) and not self.unseen_names:
      raise UserError("--unseen_clients names no client; give names or a number, or drop it.")


class HeldOutExamples(NamedTuple):
  """Held-out examples, and what the examples that remain do not tell.

  The K clients that train are numbered from 0, in their order in the partition, and the U unseen
  clients from K.

  Attributes:
    validation: the examples for validation, with ``clients`` from 0 to K - 1; None without a share.
    unseen: all training examples of the unseen clients, and after :func:`move_tests` their test
      examples, with ``clients`` from K to K + U - 1; None without unseen clients.
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
  train: Examples,
  partition: Partition,
  config: HeldOutConfig,
  seed: int,
  names: Sequence[str] | None = None,
) -> tuple[Examples, Partition, HeldOutExamples]:
  """Divides training examples into those to train on and held-out ones.

  Args:
    train: N training examples.
    partition: division of the examples over all clients.
    config: the share for validation and the unseen clients.
    seed: seed of the draws.
    names: names of the natural clients; None if the data has none.

  Returns:
    (the examples to train on, in the same order, their division over the clients that train, the
    held-out examples).

  Raises:
    UserError: no client is left to train, an unseen client is unknown, or the share is so small
      that no example is held out.
  """
  owners, count = partitions.owners(partition), len(partition.offsets) - 1
  natural = natural_clients(partition, train.clients)
  if isinstance(config.unseen_clients, str):
    known = None if natural is None or names is None else [names[k] for k in natural]
    drawn = find_clients(config.unseen_names, known)
  else:
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


def find_clients(wanted: Sequence[str], names: Sequence[str] | None) -> np.ndarray:
  """Returns the ids [U], ascending, of the clients ``wanted``.

  Args:
    wanted: names of unseen clients.
    names: name of each client of the partition; None if it is not that of the named clients.

  Raises:
    UserError: clients have no names, one is unknown, or no client would remain.
  """
  if names is None:
    raise UserError(
      "--unseen_clients with names needs data that names its clients, and --partition=natural; "
      "give a number, or choose this partition."
    )
  names = [normalize(name) for name in names]
  if unknown := [name for name in wanted if name not in names]:
    raise UserError(
      f"--unseen_clients: the data has no client {unknown[0]!r}; its clients are "
      f"{join_first(names)}."
    )
  if len(wanted) >= len(names):
    raise UserError(
      f"--unseen_clients names all {len(names)} clients, so that none is left to train; drop one."
    )
  return np.flatnonzero(np.isin(names, wanted))


def move_tests(test: Examples, held_out: HeldOutExamples) -> tuple[Examples, HeldOutExamples]:
  """Moves the test examples of unseen clients to the clients' other unseen examples.

  Nothing is moved unless the data names the clients of test examples and the partition is that of
  these clients.

  Returns:
    (the test examples of all others, in the same order, the held-out examples).

  Raises:
    UserError: no test example is left.
  """
  unseen, natural = held_out.unseen, held_out.natural_ids
  if unseen is None or natural is None or test.clients is None:
    return test, held_out
  assert unseen.clients is not None
  first = int(unseen.clients.min())  # the clients before it train
  moves = np.isin(test.clients, natural[first:])
  if not moves.any():
    return test, held_out
  if moves.all():
    raise UserError(
      "--unseen_clients takes all test images, so that none is left of the clients that train; "
      "name fewer, or drop it."
    )
  moved = select(test, np.flatnonzero(moves))
  number = dict(zip(natural[first:].tolist(), range(first, len(natural)), strict=True))
  clients = np.array([number[k] for k in test.clients[moves].tolist()], unseen.clients.dtype)
  both = Examples(
    np.concatenate([unseen.images, moved.images]),
    np.concatenate([unseen.labels, moved.labels]),
    np.concatenate([unseen.clients, clients]),
  )
  return select(test, np.flatnonzero(~moves)), held_out._replace(unseen=both)


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
