"""Checks the fields of JSON messages and files: type, range and length.

A check is a function: value of a field -> whether it is allowed. ``frames.parse_json`` applies the
checks; it also refuses texts that UTF-8 cannot encode and numbers that are not finite.
"""

from collections.abc import Callable
from typing import Any

from fedjax_norm import number_parsing
from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol.addresses import split_address

Check = Callable[[Any], bool]

MAX_TEXT_BYTES = 8192
"""Largest length of a text such as a certificate."""

_MAX_NAME_LENGTH = 253


def flag(value: Any) -> bool:
  """Whether a value is true or false."""
  return isinstance(value, bool)


def integer(value: Any) -> bool:
  """Whether a value is an integer of any size."""
  return isinstance(value, int) and not isinstance(value, bool)


def whole(value: Any) -> bool:
  """Whether a value is an unsigned 64-bit integer, the type of steps and sizes in a frame."""
  return integer(value) and 0 <= value < 2**64


def number(value: Any) -> bool:
  """Whether a value is an integer or a float."""
  return integer(value) or isinstance(value, float)


def string(value: Any) -> bool:
  """Whether a value is a text of any length."""
  return isinstance(value, str)


def text(value: Any) -> bool:
  """Whether a value is a text of at most :data:`MAX_TEXT_BYTES`."""
  return string(value) and len(value.encode()) <= MAX_TEXT_BYTES


def setting(value: Any) -> bool:
  """Whether a value can be an option's: null, a bool, number, short text or list of numbers."""
  if integer(value):
    return abs(value) <= number_parsing.MAX_INT
  if string(value):
    return len(value) <= MAX_TEXT_BYTES and value.isprintable()
  if isinstance(value, list):
    return all(isinstance(item, float) or whole(item) for item in value)
  return value is None or isinstance(value, bool | float)


def name(value: Any) -> bool:
  """Whether a value can be the name on a certificate: short and printable."""
  return string(value) and 0 < len(value) <= _MAX_NAME_LENGTH and value.isprintable()


def address(value: Any) -> bool:
  """Whether a value is HOST:PORT to connect to, or an empty text."""
  try:
    return string(value) and bool(split_address(value or "none:1"))
  except UserError:
    return False


def one_of(*values: str) -> Check:
  """Returns a check that a value is one of the given texts."""
  return lambda value: string(value) and value in values


def optional(check: Check) -> Check:
  """Returns a check that a value is null or passes ``check``."""
  return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
  """Returns a check that a value is a list and that ``check`` accepts every item."""
  return lambda value: isinstance(value, list) and all(map(check, value))


def mapping_of(check: Check) -> Check:
  """Returns a check that a value is an object of valid names, with values that pass ``check``."""
  return lambda value: (
    isinstance(value, dict) and all(name(k) and check(v) for k, v in value.items())
  )


def record(**checks: Check) -> Check:
  """Returns a check that a value is an object of exactly these fields, which pass their checks."""
  return lambda value: (
    isinstance(value, dict)
    and set(value) == set(checks)
    and all(check(value[field]) for field, check in checks.items())
  )
