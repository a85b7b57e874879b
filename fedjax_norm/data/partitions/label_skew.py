"""Partitions whose clients differ in their labels.

Each function maps labels [N], a number of clients K and a generator to the owner [N] of each
example, an integer in [0, K). C is the number of classes that occur, n_c the size of class c.
"""

import heapq

import numpy as np

from fedjax_norm.data.partitions.size_skew import MAX_ALPHA, checked_min_size, deal, even_sizes
from fedjax_norm.data.partitions.value_checks import integer, number
from fedjax_norm.data.train_test_split import apportion
from fedjax_norm.errors import UserError

_BALANCING_STEPS = 200
_DIRICHLET_TRIES = 50

# How often to draw which classes meet: less often with many clients, whose sizes matter less.
_MOST_DRAWS = 20
_DRAWN_CLIENTS = 2000


def classes(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, classes_per_client: int = 2
) -> np.ndarray:
  """Gives each client exactly k classes, so that every class is held (papers 001 and 004 sec. 4).

  A class is held by a number of clients in proportion to its size, and divided over them so that
  the clients' sizes come out as even as the classes they hold allow: with classes of one size and C
  dividing K k they differ by rounding only. Which classes meet is random; where that decides how
  even the sizes are, the best of several draws is taken.

  Args:
    labels: [N] int.
    num_clients: K.
    rng: the source of chance.
    classes_per_client: k, with k <= C <= K k; 10 clients with 2 of 10 classes are paper 001's, 5
      with 2 are paper 004's.

  Raises:
    UserError: k is out of range, or the classes have too few examples for their holders.
  """
  class_of, class_sizes = _classes(labels)
  num_classes = len(class_sizes)
  each = integer(
    "classes_per_client",
    classes_per_client,
    -(-num_classes // num_clients),
    num_classes,
    f"{num_clients} clients share {num_classes} classes",
  )
  most = np.minimum(class_sizes, num_clients)
  if most.sum() < each * num_clients:
    raise UserError(
      f"The classes have too few examples for {num_clients} clients with {each} classes each; use"
      " fewer clients or classes_per_client."
    )
  holders = _holders(class_sizes, most, each * num_clients)
  shares = _even_shares(_meet(holders, each, num_clients, rng), class_sizes)
  for _ in range(min(_MOST_DRAWS, _DRAWN_CLIENTS // num_clients) - 1):
    if np.ptp(shares.sum(0)) < 1:
      break
    other = _even_shares(_meet(holders, each, num_clients, rng), class_sizes)
    shares = min(shares, other, key=lambda drawn: np.ptp(drawn.sum(0)))
  return _deal_classes(class_of, shares, rng)


def ratio(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, ratio: float = 0.0
) -> np.ndarray:
  """Mixes blocks of classes by a ratio R (paper 000, eq. 9-10).

  The classes are cut into K blocks of neighbours. As in the paper, worker i holds the share 1 - R
  of the block after its own (the last worker: of the first) and the share R / (K - 1) of every
  other block. Two workers have the paper's R * Subset_1 + (1 - R) * Subset_2 and the converse. R =
  0 isolates the blocks, R = (K - 1) / K balances them; each class is divided by itself, its parts
  within one example of their exact share.

  Args:
    labels: [N] int.
    num_clients: K, from 2 to C.
    rng: the source of chance.
    ratio: R in [0, 1].

  Raises:
    UserError: R or K is out of range.
  """
  mixed = number("ratio", ratio, 0, 1)
  class_of, class_sizes = _classes(labels)
  if not 2 <= num_clients <= len(class_sizes):
    raise UserError(
      f"The partition 'ratio' needs from 2 to {len(class_sizes)} clients, one for each block of"
      f" classes, not {num_clients}."
    )
  block_of = _blocks(len(class_sizes), num_clients)
  shares = np.full((len(class_sizes), num_clients), mixed / (num_clients - 1))
  shares[np.arange(len(class_sizes)), (block_of - 1) % num_clients] = 1 - mixed
  return _deal_classes(class_of, shares * class_sizes[:, None], rng)


def skew(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, fraction: float = 1.0
) -> np.ndarray:
  """Partitions a fraction of the data by label and deals the rest uniformly (paper 004, sec. 3).

  The fraction, taken from every class alike, is sorted by label and cut into K even shards, one a
  client. Sizes differ by 1 at most.

  Args:
    labels: [N] int.
    num_clients: K.
    rng: the source of chance.
    fraction: in [0, 1]; 1 is the paper's 100% non-IID, 0 is IID.

  Raises:
    UserError: the fraction is out of range.
  """
  part = number("fraction", fraction, 0, 1)
  class_of, class_sizes = _classes(labels)
  num_sorted = round(part * len(labels))
  quota = apportion(class_sizes, num_sorted)
  grouped, rank = _grouped(class_of, class_sizes, rng)
  by_label = rank < np.repeat(quota, class_sizes)
  owner = np.empty(len(labels), np.int64)
  shard_sizes = even_sizes(num_sorted, num_clients)
  owner[grouped[by_label]] = np.repeat(np.arange(num_clients), shard_sizes)
  owner[grouped[~by_label]] = deal(even_sizes(len(labels), num_clients) - shard_sizes, rng)
  return owner


def dominant(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, dominant_share: float = 0.8
) -> np.ndarray:
  """Gives each client most of one class and a little of the next (paper 004, app. F).

  Class c goes by the share s to the clients k with k mod C = c and by 1 - s to those with
  (k + 1) mod C = c, evenly among them. With classes of one size and C dividing K a client's data
  are s of one class and 1 - s of the next; otherwise s remains the share of each class that goes to
  the clients it dominates. With K < C clients the classes are first cut into K blocks of
  neighbours, and `class` above means such a block.

  Args:
    labels: [N] int.
    num_clients: K, at least 2.
    rng: the source of chance.
    dominant_share: s in [0.5, 1]; the paper's is 0.8.

  Raises:
    UserError: s is out of range, or there are fewer than two clients or classes.
  """
  share = number("dominant_share", dominant_share, 0.5, 1)
  class_of, class_sizes = _classes(labels)
  if min(num_clients, len(class_sizes)) < 2:
    raise UserError(
      f"The partition 'dominant' needs at least 2 clients and 2 classes, not {num_clients} and"
      f" {len(class_sizes)}."
    )
  num_blocks = min(num_clients, len(class_sizes))
  block_of = _blocks(len(class_sizes), num_blocks)
  first = np.arange(num_clients) % num_blocks
  shares = np.zeros((len(class_sizes), num_clients))
  for held, part in ((first, share), ((first + 1) % num_blocks, 1 - share)):
    crowd = np.bincount(held, minlength=num_blocks)
    shares += (block_of[:, None] == held) * (part / crowd[block_of])[:, None]
  return _deal_classes(class_of, shares * class_sizes[:, None], rng)


def dirichlet(
  labels: np.ndarray,
  num_clients: int,
  rng: np.random.Generator,
  alpha: float = 0.5,
  min_size: int = 1,
) -> np.ndarray:
  """Divides each class over the clients in proportions drawn from Dirichlet(alpha).

  Drawn again, a bounded number of times, until every client has `min_size` examples.

  Args:
    labels: [N] int.
    num_clients: K.
    rng: the source of chance.
    alpha: the concentration, > 0: the smaller, the fewer classes a client has.
    min_size: the least examples of a client.

  Raises:
    UserError: a value is out of range, or no draw gave every client enough.
  """
  concentration = np.full(num_clients, number("alpha", alpha, 0, MAX_ALPHA, open_low=True))
  min_size = checked_min_size(min_size, len(labels), num_clients)
  class_of, class_sizes = _classes(labels)
  for _ in range(_DIRICHLET_TRIES):
    # Part k of class c ends at round(n_c * (p_1 + ... + p_k)); floor would favour the last client.
    shares = np.stack([rng.dirichlet(concentration) for _ in class_sizes])
    ends = np.rint(class_sizes[:, None] * shares.cumsum(1)).astype(np.int64)
    ends[:, -1] = class_sizes
    parts = np.diff(np.minimum(ends, class_sizes[:, None]), prepend=0)
    if parts.sum(0).min() >= min_size:
      return _deal_parts(class_of, parts, rng)
  raise UserError(
    f"In each of {_DIRICHLET_TRIES} draws a client had fewer than min_size={min_size} examples; use"
    " fewer clients, a larger alpha or a smaller min_size."
  )


def _classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The class of each example among those that occur, [N], and the classes' sizes, [C]."""
  _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
  return class_of, sizes


def _blocks(num_classes: int, num_blocks: int) -> np.ndarray:
  """The block of each class, [C]: neighbours, block sizes differing by 1 at most."""
  return np.repeat(np.arange(num_blocks), even_sizes(num_classes, num_blocks))


def _grouped(
  class_of: np.ndarray, class_sizes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Example ids class after class, in random order within each, and their rank in the class."""
  shuffled = rng.permutation(len(class_of))
  grouped = shuffled[np.argsort(class_of[shuffled], kind="stable")]
  starts = np.cumsum(class_sizes) - class_sizes
  return grouped, np.arange(len(class_of)) - np.repeat(starts, class_sizes)


def _deal_parts(class_of: np.ndarray, parts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Deals each class at random in exact parts [C, K]."""
  grouped, _ = _grouped(class_of, parts.sum(1), rng)
  owner = np.empty(len(class_of), np.int64)
  num_classes, num_clients = parts.shape
  owner[grouped] = np.repeat(np.tile(np.arange(num_clients), num_classes), parts.ravel())
  return owner


def _deal_classes(class_of: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  return _deal_parts(class_of, _rounded(shares), rng)


def _rounded(shares: np.ndarray) -> np.ndarray:
  """Rounds shares [C, K] up or down so that each class keeps its sum.

  What rounding takes from a client in one class it is first to get back in the next, so that the
  sizes of the clients stay within about one example of their exact value too.
  """
  whole = np.rint(shares)
  shares = np.where(np.abs(shares - whole) < 1e-9 * np.maximum(whole, 1), whole, shares)
  parts = np.floor(shares).astype(np.int64)
  owed = np.zeros(shares.shape[1])
  for exact, part in zip(shares, parts, strict=True):
    rest = exact - part
    owed += rest
    spare = round(rest.sum())
    # Only a client with a fraction of this class may get one more: an exact share stays exact.
    lucky = np.argsort(np.where(rest > 0, -owed, np.inf), kind="stable")[:spare]
    part[lucky] += 1
    owed[lucky] -= 1
  return parts


def _holders(class_sizes: np.ndarray, most: np.ndarray, total: int) -> np.ndarray:
  """How many clients hold each class, [C]: one at least, then whichever class is most crowded."""
  holders = np.ones_like(class_sizes)
  queue = [(-size, c) for c, size in enumerate(class_sizes) if most[c] > 1]
  heapq.heapify(queue)
  for _ in range(total - len(class_sizes)):
    _, c = heapq.heappop(queue)
    holders[c] += 1
    if holders[c] < most[c]:
      heapq.heappush(queue, (-class_sizes[c] / holders[c], c))
  return holders


def _meet(holders: np.ndarray, each: int, num_clients: int, rng: np.random.Generator) -> np.ndarray:
  """Draws who holds what, [C, K] bool: `each` classes a client, holders[c] clients a class.

  Each client takes the classes that still lack the most holders, ties at random; so the last
  clients find enough different classes left (the Gale-Ryser condition stays true).
  """
  held = np.zeros((len(holders), num_clients), bool)
  lacking = holders.copy()
  for k in rng.permutation(num_clients):
    taken = np.lexsort((rng.random(len(holders)), -lacking))[:each]
    held[taken, k] = True
    lacking[taken] -= 1
  return held


def _even_shares(held: np.ndarray, class_sizes: np.ndarray) -> np.ndarray:
  """Divides each class over its holders so that the clients' totals are as even as it finds.

  Alternately scales the clients to one size and the classes to theirs (Sinkhorn's iteration), on
  what is left when every holder has one example of each of its classes. [C, K] bool -> [C, K]
  float64: at least 1 where held, 0 elsewhere; class c sums to its size.
  """
  shares = np.where(held, (class_sizes / held.sum(1))[:, None], 0.0)
  target = class_sizes.sum() / held.shape[1]
  for _ in range(_BALANCING_STEPS):
    totals = shares.sum(0)
    if np.abs(totals - target).max() < 1e-6 * target:
      break
    shares = shares * (target / totals)
    shares = shares * (class_sizes / shares.sum(1))[:, None]
  extra = np.where(held, np.maximum(shares - 1, 0), 0.0)
  left = class_sizes - held.sum(1)
  total_extra = extra.sum(1)
  scale = np.divide(left, total_extra, out=np.zeros_like(total_extra), where=total_extra > 0)
  return held + extra * scale[:, None]
