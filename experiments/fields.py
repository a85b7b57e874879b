"""Dataclass fields that know how to define their flag."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags


def _flag(define: Callable[..., Any], default: Any, text: str, **options: Any) -> Any:
  """A dataclass field that knows how to define its flag."""
  return dataclasses.field(default=default, metadata={"define": define, "help": text, **options})


def integer(default, text, **options):
  """A whole number."""
  return _flag(flags.DEFINE_integer, default, text, **options)


def number(default, text):
  """A number."""
  return _flag(flags.DEFINE_float, default, text)


def boolean(default, text):
  """Yes or no."""
  return _flag(flags.DEFINE_boolean, default, text)


def string(default, text):
  """A text."""
  return _flag(flags.DEFINE_string, default, text)


def choice(default, choices: Sequence[str], text):
  """One of some words."""
  return _flag(flags.DEFINE_enum, default, text, enum_values=list(choices))
