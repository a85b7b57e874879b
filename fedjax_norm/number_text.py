"""Numbers that come as text: plain ASCII digits, and none too large to compute with."""

import re

import numpy as np

MOST = 2**31 - 1
"""The largest whole number: programs count rounds, steps and examples in int32."""

_LARGEST = float(np.finfo(np.float32).max)
_WHOLE = re.compile(r"([+-]?)0*([0-9]+)")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def whole(text: str, most: int = MOST) -> int:
  """Reads a whole number.

  Args:
    text: its digits.
    most: the largest that it may be, with either sign.

  Raises:
    ValueError: it is something else.
  """
  found = _WHOLE.fullmatch(text)
  # Python refuses to read thousands of digits.
  if found is None or len(found[2]) > len(str(most)) or int(found[2]) > most:
    raise ValueError(f"give a whole number up to {most} in plain digits.")
  return int(found[1] + found[2])


def real(text: str) -> float:
  """Reads a finite number, within float32.

  Args:
    text: its digits.

  Raises:
    ValueError: it is something else.
  """
  if not _REAL.fullmatch(text) or abs(float(text)) > _LARGEST:
    raise ValueError(f"give a finite number up to {_LARGEST:.1e} in plain digits.")
  return float(text)
