"""Parses the options of generated data, such as `classes=4,noise=0.1`."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedjax_norm import number_parsing
from fedjax_norm.errors import UserError

T = TypeVar("T")


def parse(text: str, options: Callable[..., T], data: str, least: Mapping[str, int]) -> T:
  """Returns the options that a text of key=value pairs gives.

  Args:
    text: key=value pairs separated by commas.
    options: NamedTuple with defaults; a value is an integer if its default is one, else a float.
    data: name of the data in errors.
    least: the smallest allowed values.

  Raises:
    UserError: an option is unknown or repeated, or a value has the wrong type or is out of range.
  """
  defaults: dict[str, Any] = options()._asdict()  # type: ignore[attr-defined]
  values: dict[str, Any] = {}
  for item in filter(None, (part.strip() for part in text.split(","))):
    key, equals, value = item.partition("=")
    if key not in defaults or not equals:
      raise UserError(
        f"{data.capitalize()} data have no option {item!r}; write key=value with a key among"
        f" {', '.join(defaults)}."
      )
    if key in values:
      raise UserError(f"The {data} option {key!r} is given twice; give it once.")
    is_float = isinstance(defaults[key], float)
    try:
      values[key] = (number_parsing.parse_float if is_float else number_parsing.parse_int)(value)
    except ValueError as error:
      raise UserError(f"The {data} option {key} is {value!r}; {error}") from None
    if values[key] < least[key]:
      raise UserError(f"The {data} option {key} must be at least {least[key]}, not {values[key]}.")
  return options(**values)
