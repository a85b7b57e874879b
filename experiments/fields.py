"""The options of classes that are not written with :func:`fedjax_norm.options.option` yet."""

from collections.abc import Sequence
from typing import Any

from fedjax_norm.options import option


def integer(default: Any, text: str, most: int | None = None) -> Any:
  """A whole number up to the given one, with either sign."""
  return option(default, text, most=most)


def choice(default: Any, choices: Sequence[str], text: str) -> Any:
  """One of some words."""
  return option(default, text, choices=choices)


number = boolean = string = option
