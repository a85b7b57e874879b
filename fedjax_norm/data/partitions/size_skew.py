"""Partitions whose clients agree in their labels: equal sizes, skewed sizes, natural clients.

Each function maps labels [N], a number of clients K and a generator to the owner [N] of each
example, an integer in [0, K).
"""

import numpy as np

from fedjax_norm.data.partitions.value_checks import integer, number
from fedjax_norm.data.train_test_split import apportion
from fedjax_norm.errors import UserError

MAX_ALPHA = 1e9
"""The largest concentration of a Dirichlet draw: beyond it all shares are equal anyway."""


def deal(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Gives sizes[k] random examples to client k: [sum of sizes] int64."""
  return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))


def even_sizes(total: int, num_clients: int) -> np.ndarray:
  """Divides `total` into K sizes that differ by 1 at most, the larger ones first: [K] int64."""
  return total // num_clients + (np.arange(num_clients) < total % num_clients)


def iid(labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> np.ndarray:
  """Deals the examples uniformly at random; sizes differ by 1 at most."""
  return deal(even_sizes(len(labels), num_clients), rng)


def contiguous(labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> np.ndarray:
  """Cuts the source into K stretches, in its order; sizes differ by 1 at most.

  It is IID where the source is in random order. Client after client, examples then come as they
  would from one machine that reads the source from front to back.
  """
  del rng
  return np.repeat(np.arange(num_clients), even_sizes(len(labels), num_clients))


def quantity(
  labels: np.ndarray,
  num_clients: int,
  rng: np.random.Generator,
  exponent: float | None = None,
  alpha: float | None = None,
  min_size: int = 1,
) -> np.ndarray:
  """Skews the sizes and leaves the labels IID (paper 004, app. K: quantity skew).

  Each client gets `min_size` examples; the rest is divided in proportion to weights: w_r = r^-a for
  the ranks r = 1..K in random order (power law), or w ~ Dirichlet(alpha).

  Args:
    labels: [N] int.
    num_clients: K.
    rng: the source of chance.
    exponent: a >= 0, the power law's; 1 where neither it nor alpha is given.
    alpha: > 0, the Dirichlet's concentration: the smaller, the more skewed.
    min_size: the least examples of a client.

  Raises:
    UserError: both laws are given, a value is out of range, or N < K * min_size.
  """
  if exponent is not None and alpha is not None:
    raise UserError(
      "The partition 'quantity' takes either exponent (power law) or alpha (Dirichlet); give one."
    )
  min_size = checked_min_size(min_size, len(labels), num_clients)
  if alpha is not None:
    concentration = number("alpha", alpha, 0, MAX_ALPHA, open_low=True)
    weights = rng.dirichlet(np.full(num_clients, concentration))
  else:
    power = number("exponent", 1 if exponent is None else exponent, 0)
    weights = rng.permutation(np.arange(1, num_clients + 1, dtype=np.float64) ** -power)
  return deal(min_size + apportion(weights, len(labels) - num_clients * min_size), rng)


def checked_min_size(min_size: int, num_examples: int, num_clients: int) -> int:
  """Returns `min_size` if it is at least 1 and K clients can have it.

  Raises:
    UserError: they cannot.
  """
  why = f"{num_clients} clients share {num_examples} examples"
  return integer("min_size", min_size, 1, num_examples // num_clients, why)


def natural(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, clients: np.ndarray | None = None
) -> np.ndarray:
  """Gives each example to the client it comes from; client k is the k-th smallest id that occurs.

  Args:
    labels: [N] int.
    num_clients: 0, or the number of natural clients, as a check.
    rng: not drawn from here.
    clients: [N] int, the natural client of each example (`Examples.clients`).

  Raises:
    UserError: the source has no natural clients, their ids are no [N] integers from 0, or they are
      not `num_clients`.
  """
  del rng
  if clients is None:
    raise UserError("This data source has no natural clients; choose another partition.")
  clients = np.asarray(clients)
  if clients.shape != labels.shape or clients.dtype.kind not in "iu" or clients.min() < 0:
    raise UserError(f"The natural clients must be {len(labels)} integers from 0, one an example.")
  present, owner = np.unique(clients, return_inverse=True)
  if num_clients not in (0, len(present)):
    raise UserError(
      f"The data names {len(present)} clients, not {num_clients}; leave out the number of clients"
      " to train these, or choose another partition."
    )
  return owner
