"""What every module that reads flags asks of them."""

from typing import TypeVar

from experiments.config import Config
from fedjax_norm import numerals
from fedjax_norm.errors import UserError

T = TypeVar("T")


def given(value: T | None, default: T) -> T:
  """A flag's value, or what stands for one that is not given."""
  return default if value is None else value


def refuse(config: Config, names: tuple[str, ...], needs: str) -> None:
  """Refuses flags that were given and would do nothing.

  Args:
    config: the flags.
    names: which.
    needs: what they would need.

  Raises:
    UserError: one was given.
  """
  for name in names:
    value = getattr(config, name)
    if value is not None and value is not False:  # 0 was given
      raise UserError(f"--{name} does nothing here: it needs {needs}; drop it or add that.")


def numbers(config: Config, name: str) -> tuple[float, ...]:
  """The numbers of a flag that has them with commas between.

  Raises:
    UserError: something else is among them.
  """
  value = getattr(config, name)
  try:
    return tuple(numerals.real(item.strip()) for item in value.split(","))
  except ValueError:
    raise UserError(
      f"--{name} is {value!r}; give finite numbers in plain digits, with commas between."
    ) from None
