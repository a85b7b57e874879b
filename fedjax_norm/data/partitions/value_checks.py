"""Checks of the options of partitions."""

import math
from typing import Any

import numpy as np

from fedjax_norm.errors import UserError


def number(name: str, value: Any, low: float, high: float = math.inf, *, open_low=False) -> float:
  """Returns the value as a float if it is a finite number in [low, high], or (low, high].

  Raises:
    UserError: it is not.
  """
  is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
  above = is_number and (value > low if open_low else value >= low)
  if above and math.isfinite(value) and value <= high:
    return float(value)
  bounds = f"above {low}" if open_low else f"at least {low}"
  if high < math.inf:
    bounds += f" and at most {high}"
  raise UserError(f"The option {name} must be a number {bounds}, not {value!r}.")


def integer(name: str, value: Any, low: int, high: int, why: str) -> int:
  """Returns the value if it is an integer in [low, high]; `why` says where the bounds come from.

  Raises:
    UserError: it is not.
  """
  is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
  if is_integer and low <= value <= high:
    return int(value)
  raise UserError(f"The option {name} must be from {low} to {high} ({why}), not {value!r}.")
