"""The errors a user can act on: one sentence that says what was wrong and what to do."""

from typing import Any, get_args


class UserError(ValueError):
  """Bad input: a flag, a path, a file, a shape or a combination of them."""


class DivergedError(UserError):
  """Training produced a loss that is not finite."""


class LostError(UserError):
  """Another process of the run died or cannot be reached."""


def expect(name: str, value: Any, kind: Any) -> None:
  """Refuses an argument of another type.

  Args:
    name: of the argument.
    value: of the argument.
    kind: a class, or a union of classes.

  Raises:
    UserError: the value is no instance of the kind.
  """
  if not isinstance(value, kind):
    kinds = [k for k in get_args(kind) or (kind,) if k is not type(None)]
    wanted = " or ".join(k.__name__ for k in kinds)
    got = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    raise UserError(f"the argument {name} must be an object of type {wanted}, not {got}.")
