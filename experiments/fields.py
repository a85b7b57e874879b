"""Dataclass fields that know how to define their flag."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from fedjax_norm import numerals


class _Number(flags.ArgumentParser):
  """Reads a flag's number, from a text in plain digits."""

  def __init__(self, kind: str, read: Callable[[str], int | float]):
    super().__init__()
    self._kind, self._read = kind, read

  def parse(self, argument: Any) -> int | float:
    """The number; a default is one already."""
    return self._read(argument) if isinstance(argument, str) else argument

  def flag_type(self) -> str:
    """What --help calls it."""
    return self._kind


def _flag(define: Callable[..., Any], default: Any, text: str, **options: Any) -> Any:
  """A dataclass field that knows how to define its flag."""
  return dataclasses.field(default=default, metadata={"define": define, "help": text, **options})


def _numeric(kind: str, read: Callable[[str], int | float], default: Any, text: str) -> Any:
  def define(name: str, default: Any, text: str, flag_values: flags.FlagValues) -> None:
    flags.DEFINE(_Number(kind, read), name, default, text, flag_values, flags.ArgumentSerializer())

  return _flag(define, default, text)


def integer(default, text, most: int = numerals.MOST):
  """A whole number up to the given one, with either sign."""
  return _numeric("an integer", lambda digits: numerals.whole(digits, most), default, text)


def number(default, text):
  """A number."""
  return _numeric("a number", numerals.real, default, text)


def boolean(default, text):
  """Yes or no."""
  return _flag(flags.DEFINE_boolean, default, text)


def string(default, text):
  """A text."""
  return _flag(flags.DEFINE_string, default, text)


def choice(default, choices: Sequence[str], text):
  """One of some words."""
  return _flag(flags.DEFINE_enum, default, text, enum_values=list(choices))
