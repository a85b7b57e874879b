"""Errors that a user can act on: one sentence that says what was wrong and what to do."""

from typing import Any, get_args


class UserError(ValueError):
  """The user gave a wrong flag, path, file or array, or a wrong combination of them."""


class UnusedOptionError(UserError):
  """An option would have no effect beside the others.

  Args:
    option: its name.
    needs: what it needs, as flags.
  """

  def __init__(self, option: str, needs: str) -> None:
    super().__init__(
      f"--{option} does nothing here: it needs {needs}; drop --{option} or add {needs}."
    )
    self.option = option


class DivergedError(UserError):
  """The training loss became infinite or NaN."""


class LostError(UserError):
  """Another process of this run has died or cannot be reached."""


def check_type(name: str, value: Any, expected: Any) -> None:
  """Raises UserError if the argument ``name`` is not of the expected class, or union of classes."""
  if not isinstance(value, expected):
    kinds = [k for k in get_args(expected) or (expected,) if k is not type(None)]
    wanted = " or ".join(k.__name__ for k in kinds)
    got = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    raise UserError(f"the argument {name} must be an object of type {wanted}, not {got}.")
