"""Checks of the values of partition options."""

import math
from typing import Any

import numpy as np

from fedjax_norm.errors import UserError

MAX_ALPHA = 1e9
"""The largest concentration of a Dirichlet distribution; above it all shares are equal anyway."""


def check_number(
  name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
  """Returns the value of the option `name` as a float.

  Raises:
    UserError: the value is not a finite number from `low` (if not `open_low`) to `high`.
  """
  is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
  above = is_number and (value > low if open_low else value >= low)
  if above and math.isfinite(value) and value <= high:
    return float(value)
  bounds = f"above {low}" if open_low else f"at least {low}"
  if high < math.inf:
    bounds += f" and at most {high}"
  raise UserError(f"The option {name} must be a number {bounds}, not {value!r}.")


def check_integer(name: str, value: Any, low: int, high: int, why: str) -> int:
  """Returns the value of the option `name` as an integer.

  Raises:
    UserError: the value is not an integer from `low` to `high`; `why` explains these limits.
  """
  if is_integer(value) and low <= value <= high:
    return int(value)
  raise UserError(f"The option {name} must be from {low} to {high} ({why}), not {value!r}.")


def is_integer(value: Any) -> bool:
  """Returns whether the value is an integer, of Python or NumPy, and not a bool."""
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_min_size(min_size: Any, num_examples: int, num_clients: int) -> int:
  """Returns `min_size`, the smallest number of examples of a client.

  Raises:
    UserError: `min_size` is below 1, or the examples do not suffice for all clients.
  """
  why = f"{num_clients} clients share {num_examples} examples"
  return check_integer("min_size", min_size, 1, num_examples // num_clients, why)
