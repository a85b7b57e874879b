"""Partitions without label skew: IID, contiguous, with skewed sizes, or by natural clients.

Each function maps labels [N], a number of clients K and a random generator to the client [N] of
each example, an integer in [0, K).
"""

import numpy as np

from fedjax_norm.data.partitions.dealing import deal, even_sizes
from fedjax_norm.data.partitions.value_checks import MAX_ALPHA, check_min_size, check_number
from fedjax_norm.data.train_test_split import apportion
from fedjax_norm.errors import UserError


def iid(labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> np.ndarray:
  """Divides the examples uniformly at random; sizes differ by at most 1."""
  return deal(even_sizes(len(labels), num_clients), rng)


def contiguous(labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> np.ndarray:
  """Cuts the source into K contiguous parts in its order; sizes differ by at most 1.

  The partition is IID if the source is in random order. The examples of client 0, then those of
  client 1 and so on, are then in the order in which one machine would read the source.
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
  """Gives the clients different numbers of examples, IID in the labels (paper 004, app. K).

  Each client gets `min_size` examples; the rest is divided in proportion to weights: w_r = r^-a for
  the ranks r = 1..K in random order (power law), or w ~ Dirichlet(alpha).

  Args:
    exponent: exponent a >= 0 of the power law; 1 if neither `exponent` nor `alpha` is given.
    alpha: concentration > 0 of the Dirichlet distribution; smaller values are more skewed.
    min_size: smallest number of examples of a client.

  Raises:
    UserError: both `exponent` and `alpha` are given, a value is out of range, or N < K * min_size.
  """
  if exponent is not None and alpha is not None:
    raise UserError(
      "--partition=quantity takes --exponent (a power law) or --alpha (Dirichlet), not both; drop "
      "one of them (a preset may have set --alpha)."
    )
  min_size = check_min_size(min_size, len(labels), num_clients)
  if alpha is not None:
    concentration = check_number("alpha", alpha, 0, MAX_ALPHA, open_low=True)
    weights = rng.dirichlet(np.full(num_clients, concentration))
  else:
    power = check_number("exponent", 1 if exponent is None else exponent, 0)
    weights = rng.permutation(np.arange(1, num_clients + 1, dtype=np.float64) ** -power)
  return deal(min_size + apportion(weights, len(labels) - num_clients * min_size), rng)


def natural(
  labels: np.ndarray, num_clients: int, rng: np.random.Generator, clients: np.ndarray | None = None
) -> np.ndarray:
  """Gives each example to its natural client; the ids of these clients are renumbered in order.

  Args:
    num_clients: the number of natural clients, or 0 to accept any number.
    clients: [N] int, the natural client of each example (`Examples.clients`).

  Raises:
    UserError: the source has no natural clients, their ids are not [N] integers from 0, or their
      number is not `num_clients`.
  """
  del rng
  if clients is None:
    raise UserError("This data source has no natural clients; choose another partition.")
  clients = np.asarray(clients)
  if clients.shape != labels.shape or clients.dtype.kind not in "iu" or clients.min() < 0:
    raise UserError(f"The natural clients must be {len(labels)} integers from 0, one per example.")
  present, owner = np.unique(clients, return_inverse=True)
  if num_clients not in (0, len(present)):
    raise UserError(
      f"The data names {len(present)} clients, not {num_clients}; give {len(present)} clients, or"
      " choose another partition."
    )
  return owner
