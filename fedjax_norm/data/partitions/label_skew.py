"""Partitions with label skew: clients differ in their mix of classes.

Each function maps labels [N], a number of clients K and a random generator to the client [N] of
each example, an integer in [0, K). C is the number of classes that occur, n_c the size of class c.
"""

import numpy as np

from fedjax_norm.data.partitions import dealing
from fedjax_norm.data.partitions.value_checks import (
  MAX_ALPHA,
  check_integer,
  check_min_size,
  check_number,
)
from fedjax_norm.data.train_test_split import apportion
from fedjax_norm.errors import UserError

_DIRICHLET_TRIES = 50


def ratio(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, ratio: float = 0.0
) -> np.ndarray:
  """Mixes blocks of classes by a ratio R (paper 000, eq. 9-10).

  The classes are cut into K blocks of consecutive classes. As in the paper, client i has the share
  1 - R of block i + 1 (the last client: of the first block) and R / (K - 1) of every other block.
  Two clients have the paper's R * Subset_1 + (1 - R) * Subset_2 and the converse. R = 0
  isolates the blocks, R = (K - 1) / K balances them. Each class is divided separately, and a
  client's part of it is within one example of the exact share.

  Args:
    num_clients: K, from 2 to C.
    ratio: R from 0 to 1.

  Raises:
    UserError: R or K is out of range.
  """
  mixed = check_number("ratio", ratio, 0, 1)
  class_of, class_sizes = dealing.index_classes(labels)
  if not 2 <= num_clients <= len(class_sizes):
    raise UserError(
      f"The partition 'ratio' needs from 2 to {len(class_sizes)} clients, one per block of classes,"
      f" not {num_clients}."
    )
  block_of = _blocks(len(class_sizes), num_clients)
  shares = np.full((len(class_sizes), num_clients), mixed / (num_clients - 1))
  shares[np.arange(len(class_sizes)), (block_of - 1) % num_clients] = 1 - mixed
  return dealing.deal_shares(class_of, shares * class_sizes[:, None], rng)


def skew(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, fraction: float = 1.0
) -> np.ndarray:
  """Divides a fraction of the examples by label and the rest at random (paper 004, sec. 3).

  The fraction, drawn from every class in proportion, is sorted by label and cut into K even shards,
  one per client. The clients' sizes differ by at most 1.

  Args:
    fraction: fraction to divide by label, from 0 (IID) to 1 (the paper's 100% non-IID).

  Raises:
    UserError: the fraction is out of range.
  """
  part = check_number("fraction", fraction, 0, 1)
  class_of, class_sizes = dealing.index_classes(labels)
  num_sorted = round(part * len(labels))
  quota = apportion(class_sizes, num_sorted)
  grouped, rank = dealing.group_by_class(class_of, class_sizes, rng)
  by_label = rank < np.repeat(quota, class_sizes)
  owner = np.empty(len(labels), np.int64)
  shard_sizes = dealing.even_sizes(num_sorted, num_clients)
  owner[grouped[by_label]] = np.repeat(np.arange(num_clients), shard_sizes)
  owner[grouped[~by_label]] = dealing.deal(
    dealing.even_sizes(len(labels), num_clients) - shard_sizes, rng
  )
  return owner


def dominant(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, dominant_share: float = 0.8
) -> np.ndarray:
  """Gives each client mostly one class and some examples of the next (paper 004, app. F).

  The share s of class c is divided evenly over the clients k with k mod C = c, and the share 1 - s
  over the clients with (k + 1) mod C = c. If all classes have one size and C divides K, a client's
  data have one class with the share s and the next with 1 - s; otherwise s is still the share of
  each class that its main clients have. With K < C clients the classes are first cut into K blocks
  of consecutive classes, and `class` above means such a block.

  Args:
    num_clients: K, at least 2.
    dominant_share: s, from 0.5 to 1; the paper has 0.8.

  Raises:
    UserError: s is out of range, or there are fewer than two clients or classes.
  """
  share = check_number("dominant_share", dominant_share, 0.5, 1)
  class_of, class_sizes = dealing.index_classes(labels)
  if min(num_clients, len(class_sizes)) < 2:
    raise UserError(
      f"The partition 'dominant' needs at least 2 clients and 2 classes, not {num_clients} and"
      f" {len(class_sizes)}."
    )
  num_blocks = min(num_clients, len(class_sizes))
  block_of = _blocks(len(class_sizes), num_blocks)
  first = np.arange(num_clients) % num_blocks
  shares = np.zeros((len(class_sizes), num_clients))
  for block, part in ((first, share), ((first + 1) % num_blocks, 1 - share)):
    num_holders = np.bincount(block, minlength=num_blocks)
    shares += (block_of[:, None] == block) * (part / num_holders[block_of])[:, None]
  return dealing.deal_shares(class_of, shares * class_sizes[:, None], rng)


def dirichlet(
  labels: np.ndarray,
  num_clients: int,
  rng: np.random.Generator,
  alpha: float = 0.5,
  min_size: int = 1,
  cap_sizes: bool = False,
  correlation: float | None = None,
  neighbours: int | None = None,
) -> np.ndarray:
  """Divides each class over the clients in proportions drawn from Dirichlet(alpha).

  The draw is repeated, up to 50 times, until every client has `min_size` examples.

  With a correlation r, neighbouring clients have similar data (paper 004, app. K: correlation
  between partitions). The proportions of a Dirichlet distribution are gamma variables divided by
  their sum. Those of neighbours have a common part: client k has w_k = g + u_k for a class, with
  g ~ Gamma(r alpha) for all neighbours and u_k ~ Gamma((1 - r) alpha), so that w_k ~ Gamma(alpha)
  as before and corr(w_j, w_k) = r.

  Args:
    alpha: concentration above 0; with a smaller one a client has fewer classes.
    min_size: smallest number of examples of a client.
    cap_sizes: whether a client that has N / K examples or more of the earlier classes gets none of
      a class; the proportions of the others are scaled up (NIID-Bench, arXiv 2102.02079, whose
      `min_size` is 10).
    correlation: r, from 0 (independent clients, as without it) to 1 (equal proportions).
    neighbours: number of neighbouring clients, at least 2, which is the default: the first ones are
      neighbours, then the next ones, and so on; the last neighbourhood can be smaller.

  Raises:
    UserError: a value is out of range, or no draw gave every client `min_size` examples.
  """
  alpha = check_number("alpha", alpha, 0, MAX_ALPHA, open_low=True)
  concentration = np.full(num_clients, alpha)
  neighbourhood = _neighbourhoods(num_clients, correlation, neighbours)
  min_size = check_min_size(min_size, len(labels), num_clients)
  class_of, class_sizes = dealing.index_classes(labels)
  for _ in range(_DIRICHLET_TRIES):
    parts = np.zeros((len(class_sizes), num_clients), np.int64)
    for part, size in zip(parts, class_sizes, strict=True):
      if correlation is None:
        shares = rng.dirichlet(concentration)
      else:
        shares = _correlated_shares(alpha, correlation, neighbourhood, rng)
      if cap_sizes:
        # A positive floor, so that a class has clients even if their shares are too small a float.
        shares = np.maximum(shares, np.finfo(np.float64).tiny)
        shares[parts.sum(0) >= len(labels) / num_clients] = 0
        shares /= shares.sum()
      # Part k ends at round(n_c * (p_1 + ... + p_k)); floor would favour the last client.
      ends = np.rint(size * shares.cumsum())
      ends[-1] = size
      part[:] = np.diff(np.minimum(ends, size), prepend=0)
    if parts.sum(0).min() >= min_size:
      return dealing.deal_counts(class_of, parts, rng)
  raise UserError(
    f"In each of {_DIRICHLET_TRIES} draws a client had fewer than min_size={min_size} examples; use"
    " fewer clients, a larger alpha or a smaller min_size."
  )


def _neighbourhoods(
  num_clients: int, correlation: float | None, neighbours: int | None
) -> np.ndarray:
  """Returns the neighbourhood of each client, [K], after checks of the options of `dirichlet`."""
  if correlation is None:
    if neighbours is not None:
      raise UserError("The option neighbours needs the option correlation; add it or drop both.")
    return np.arange(num_clients)
  check_number("correlation", correlation, 0, 1)
  if num_clients < 2:
    raise UserError(f"The option correlation needs at least 2 clients, not {num_clients}; drop it.")
  why = f"there are {num_clients} clients"
  size = 2 if neighbours is None else neighbours
  return np.arange(num_clients) // check_integer("neighbours", size, 2, num_clients, why)


def _correlated_shares(
  alpha: float, correlation: float, neighbourhood: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Returns proportions of clients [K] with correlated gamma variables in each neighbourhood [K].

  They are computed from logarithms, because gamma variables with a small alpha underflow.
  """

  def log_gamma(shape: float, count: int) -> np.ndarray:
    if shape == 0:
      return np.full(count, -np.inf)
    # X U^(1 / a) ~ Gamma(a) for X ~ Gamma(a + 1) and a uniform U.
    return np.log(rng.gamma(shape + 1, size=count)) + np.log1p(-rng.random(count)) / shape

  common = log_gamma(correlation * alpha, neighbourhood[-1] + 1)
  own = log_gamma((1 - correlation) * alpha, len(neighbourhood))
  logs = np.logaddexp(common[neighbourhood], own)
  weights = np.exp(logs - logs.max())
  return weights / weights.sum()


def _blocks(num_classes: int, num_blocks: int) -> np.ndarray:
  """Returns the block of each class, [C]: consecutive classes; sizes differ by at most 1."""
  return np.repeat(np.arange(num_blocks), dealing.even_sizes(num_classes, num_blocks))
