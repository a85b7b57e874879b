"""The options of generated data, as they stand after the source's name."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedjax_norm import number_text
from fedjax_norm.errors import UserError

T = TypeVar("T")


def read(text: str, options: Callable[..., T], kind: str, least: Mapping[str, int]) -> T:
  """Reads options such as `classes=4,noise=0.1`.

  Args:
    text: key=value pairs with commas between.
    options: a NamedTuple of their default values, each of which says by its type what it takes.
    kind: what an error calls the data.
    least: the smallest allowed values.

  Raises:
    UserError: an unknown or repeated option, a value of the wrong kind or out of range.
  """
  defaults: dict[str, Any] = options()._asdict()  # type: ignore[attr-defined]
  values: dict[str, Any] = {}
  for item in filter(None, (part.strip() for part in text.split(","))):
    key, equals, value = item.partition("=")
    if key not in defaults or not equals:
      raise UserError(
        f"{kind.capitalize()} data have no option {item!r}; write key=value with a key among"
        f" {', '.join(defaults)}."
      )
    if key in values:
      raise UserError(f"The {kind} option {key!r} is given twice; give it once.")
    read = number_text.real if isinstance(defaults[key], float) else number_text.whole
    try:
      values[key] = read(value)
    except ValueError as error:
      raise UserError(f"The {kind} option {key} is {value!r}; {error}") from None
    if values[key] < least[key]:
      raise UserError(f"The {kind} option {key} must be at least {least[key]}, not {values[key]}.")
  return options(**values)
