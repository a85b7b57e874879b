"""Parses numbers that are written in plain ASCII digits and fit int32 or float32."""

import re

import numpy as np

MAX_INT = 2**31 - 1
"""The largest accepted integer: compiled programs count rounds, steps and examples in int32."""

_MAX_FLOAT = float(np.finfo(np.float32).max)
_INT = re.compile(r"([+-]?)0*([0-9]+)")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def parse_int(text: str, most: int = MAX_INT) -> int:
  """Parses an integer.

  Args:
    text: digits, with an optional sign.
    most: largest allowed absolute value.

  Raises:
    ValueError: the text is not an integer in plain digits, or is outside -most to most.
  """
  match = _INT.fullmatch(text)
  # Python raises an error for numbers of thousands of digits.
  if match is None or len(match[2]) > len(str(most)) or int(match[2]) > most:
    raise ValueError(f"give a whole number up to {most} in plain digits.")
  return int(match[1] + match[2])


def parse_float(text: str) -> float:
  """Parses a decimal number with an optional sign and exponent.

  Raises:
    ValueError: the text is not a decimal number, or is outside the range of float32.
  """
  if not _FLOAT.fullmatch(text) or abs(float(text)) > _MAX_FLOAT:
    raise ValueError(f"give a finite number up to {_MAX_FLOAT:.1e} in plain digits.")
  return float(text)
