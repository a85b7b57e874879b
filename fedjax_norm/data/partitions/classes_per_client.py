"""The partitions `classes` and `random_classes`: clients have examples of exactly k classes.

The arguments `labels`, `num_clients` K and `rng` and the result are those in ``label_skew.py``.
"""

import heapq

import numpy as np

from fedjax_norm.data.partitions.dealing import deal_counts, deal_shares, even_sizes, index_classes
from fedjax_norm.data.partitions.value_checks import check_integer
from fedjax_norm.errors import UserError

_BALANCING_STEPS = 200

# Number of draws of the clients' classes; fewer with many clients, whose sizes matter less.
_MAX_DRAWS = 20
_MAX_DRAWN_CLIENTS = 2000


def classes(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, classes_per_client: int = 2
) -> np.ndarray:
  """Gives examples of exactly k classes to each client (papers 001 and 004 sec. 4).

  The number of clients with a class is proportional to the size of the class, and at least 1. A
  class is divided over its clients such that all clients' sizes are as even as possible: they
  differ only by rounding if all classes have one size and C divides K k. The combinations of
  classes are random; if the sizes depend on them, the most even of several draws is used.

  Args:
    classes_per_client: k, with k <= C <= K k; paper 001 has 10 clients with 2 of 10 classes, paper
      004 has 5 clients with 2.

  Raises:
    UserError: k is out of range, or the classes have too few examples for their clients.
  """
  class_of, class_sizes = index_classes(labels)
  num_classes = len(class_sizes)
  each = check_integer(
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
      " fewer clients or a smaller classes_per_client."
    )
  holders = _num_holders(class_sizes, most, each * num_clients)
  shares = _even_shares(_draw_classes(holders, each, num_clients, rng), class_sizes)
  for _ in range(min(_MAX_DRAWS, _MAX_DRAWN_CLIENTS // num_clients) - 1):
    if np.ptp(shares.sum(0)) < 1:
      break
    other = _even_shares(_draw_classes(holders, each, num_clients, rng), class_sizes)
    shares = min(shares, other, key=lambda drawn: np.ptp(drawn.sum(0)))
  return deal_shares(class_of, shares, rng)


def random_classes(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, classes_per_client: int = 2
) -> np.ndarray:
  """Gives client i the class i mod C and k - 1 further ones at random (NIID-Bench, "#C = k").

  Unlike in `classes`, nothing evens out the clients: some classes have more clients than others.
  Each class is divided over its clients into parts that differ by at most one example.

  Args:
    num_clients: K, at least C, so that every class has a client.
    classes_per_client: k, from 1 to C.

  Raises:
    UserError: k or K is out of range, or a class has fewer examples than clients.
  """
  class_of, class_sizes = index_classes(labels)
  num_classes = len(class_sizes)
  each = check_integer(
    "classes_per_client", classes_per_client, 1, num_classes, f"there are {num_classes} classes"
  )
  if num_clients < num_classes:
    raise UserError(
      f"The partition 'random_classes' needs at least {num_classes} clients, one per class, not"
      f" {num_clients}; use more clients, or the partition 'classes'."
    )
  counts = np.zeros((num_classes, num_clients), np.int64)
  for k in range(num_clients):
    others = np.delete(np.arange(num_classes), k % num_classes)
    counts[[k % num_classes, *rng.permutation(others)[: each - 1]], k] = 1
  for count, size in zip(counts, class_sizes, strict=True):
    holders = np.flatnonzero(count)
    if size < len(holders):
      raise UserError(
        f"A class with {size} examples is too small for its {len(holders)} clients; use fewer"
        " clients or a smaller classes_per_client."
      )
    count[holders] = even_sizes(size, len(holders))
  return deal_counts(class_of, counts, rng)


def _num_holders(class_sizes: np.ndarray, most: np.ndarray, total: int) -> np.ndarray:
  """Returns the number of clients of each class, [C], with the sum `total`.

  Each class gets one client; further ones go to the class with the most examples per client.
  """
  holders = np.ones_like(class_sizes)
  queue = [(-size, c) for c, size in enumerate(class_sizes) if most[c] > 1]
  heapq.heapify(queue)
  for _ in range(total - len(class_sizes)):
    _, c = heapq.heappop(queue)
    holders[c] += 1
    if holders[c] < most[c]:
      heapq.heappush(queue, (-class_sizes[c] / holders[c], c))
  return holders


def _draw_classes(
  holders: np.ndarray, each: int, num_clients: int, rng: np.random.Generator
) -> np.ndarray:
  """Draws the classes of each client, [C, K] bool, with `each` classes per client.

  Class c has holders[c] clients. Each client gets the classes that still lack the most clients,
  with random tie-breaking; so the last clients also get different classes (the Gale-Ryser condition
  remains true).
  """
  has = np.zeros((len(holders), num_clients), bool)
  lacking = holders.copy()
  for k in rng.permutation(num_clients):
    drawn = np.lexsort((rng.random(len(holders)), -lacking))[:each]
    has[drawn, k] = True
    lacking[drawn] -= 1
  return has


def _even_shares(has: np.ndarray, class_sizes: np.ndarray) -> np.ndarray:
  """Divides each class over its clients such that the clients' totals are as even as possible.

  Alternately scales the clients to one size and the classes to their sizes (Sinkhorn's iteration),
  after giving every client one example of each of its classes. [C, K] bool -> [C, K] float64: at
  least 1 for a client that has the class, else 0; class c sums to its size.
  """
  shares = np.where(has, (class_sizes / has.sum(1))[:, None], 0.0)
  target = class_sizes.sum() / has.shape[1]
  for _ in range(_BALANCING_STEPS):
    totals = shares.sum(0)
    if np.abs(totals - target).max() < 1e-6 * target:
      break
    shares = shares * (target / totals)
    shares = shares * (class_sizes / shares.sum(1))[:, None]
  extra = np.where(has, np.maximum(shares - 1, 0), 0.0)
  left = class_sizes - has.sum(1)
  total_extra = extra.sum(1)
  scale = np.divide(left, total_extra, out=np.zeros_like(total_extra), where=total_extra > 0)
  return has + extra * scale[:, None]
