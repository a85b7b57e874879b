"""What the options of several algorithms are checked for."""

from collections.abc import Sequence
from typing import Any

from fedjax_norm.errors import UserError


def check_choices(config: Any, **choices: Sequence[str]) -> None:
  """Refuses a field that is none of its choices.

  Raises:
    UserError: one is not.
  """
  for field, allowed in choices.items():
    value = getattr(config, field)
    if value not in allowed:
      raise UserError(f"unknown {field} {value!r}; choose one of {', '.join(allowed)}.")


def check_local_length(local_steps: int | None, local_epochs: int | None) -> None:
  """Refuses what cannot be the length of a client's training in a round.

  Raises:
    UserError: both are given, or one is below 1.
  """
  if local_steps is not None and local_epochs is not None:
    raise UserError("local_steps and local_epochs exclude each other; give one of them.")
  for field, value in (("local_steps", local_steps), ("local_epochs", local_epochs)):
    if value is not None and value < 1:
      raise UserError(f"{field} is {value}; it must be at least 1.")
