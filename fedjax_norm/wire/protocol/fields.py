"""What the fields of JSON messages and files may hold: checks of type, range and length.

A check is a function of a field's value. Where JSON is read
(``frames.parse``), all texts are checked to be encodable, and all numbers to be finite.
"""

from collections.abc import Callable
from typing import Any

from fedjax_norm import number_text
from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol.addresses import split_address

Check = Callable[[Any], bool]

LONGEST = 8192  # bytes of a text
_LONGEST_NAME = 253


def flag(value: Any) -> bool:
  """Whether a value is true or false."""
  return isinstance(value, bool)


def integer(value: Any) -> bool:
  """Whether a value is a whole number of any size."""
  return isinstance(value, int) and not isinstance(value, bool)


def whole(value: Any) -> bool:
  """Whether a value is a whole number that a frame's header can hold, as of a step or of bytes."""
  return integer(value) and 0 <= value < 2**64


def number(value: Any) -> bool:
  """Whether a value is a number."""
  return integer(value) or isinstance(value, float)


def string(value: Any) -> bool:
  """Whether a value is a text of any length."""
  return isinstance(value, str)


def text(value: Any) -> bool:
  """Whether a value is a text that is not too long."""
  return string(value) and len(value.encode()) <= LONGEST


def setting(value: Any) -> bool:
  """Whether a value can be that of a flag, or a list of numbers, that programs count with."""
  if integer(value):
    return abs(value) <= number_text.MOST
  if string(value):
    return len(value) <= LONGEST and value.isprintable()
  return value is None or isinstance(value, bool | float) or listed(_counted)(value)


def _counted(value: Any) -> bool:
  return isinstance(value, float) or whole(value)


def name(value: Any) -> bool:
  """Whether a value can be the name on a certificate: short, and safe to print."""
  return string(value) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def address(value: Any) -> bool:
  """Whether a value is an address that can be connected to, or empty."""
  if not string(value):
    return False
  try:
    split_address(value or "none:1")
  except UserError:
    return False
  return True


def one_of(*values: str) -> Check:
  """Checks that a value is one of some words."""
  return lambda value: string(value) and value in values


def optional(check: Check) -> Check:
  """Checks a value that may be null."""
  return lambda value: value is None or check(value)


def listed(check: Check) -> Check:
  """Checks every item of a list."""
  return lambda value: isinstance(value, list) and all(map(check, value))


def mapping(check: Check) -> Check:
  """Checks the names and the values of an object whose fields are names."""
  return lambda value: (
    isinstance(value, dict) and all(name(k) and check(v) for k, v in value.items())
  )


def record(**checks: Check) -> Check:
  """Checks an object that has these fields and no others."""
  return lambda value: (
    isinstance(value, dict)
    and set(value) == set(checks)
    and all(check(value[field]) for field, check in checks.items())
  )
