"""Errors that a user can act on: one sentence that says what was wrong and what to do."""

from typing import Any, get_args


class UserError(ValueError):
  """Bad input: a flag, a path, a file, a shape or a combination of them."""


class DivergedError(UserError):
  """Training produced a loss that is not finite."""


class LostError(UserError):
  """Another process of the run died or cannot be reached."""


def check_type(name: str, value: Any, expected: Any) -> None:
  """Checks the type of an argument.

  Args:
    name: name of the argument.
    value: value of the argument.
    expected: class, or union of classes.

  Raises:
    UserError: the value is not an instance of the expected type.
  """
  if not isinstance(value, expected):
    kinds = [k for k in get_args(expected) or (expected,) if k is not type(None)]
    wanted = " or ".join(k.__name__ for k in kinds)
    got = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    raise UserError(f"the argument {name} must be an object of type {wanted}, not {got}.")
