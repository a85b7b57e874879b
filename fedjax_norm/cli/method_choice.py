"""Flags such as ``--method``, which decide what other flags exist and are read before these."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from absl import flags

from fedjax_norm.algorithms.contract import Method
from fedjax_norm.cli.config import Config, config_of
from fedjax_norm.errors import UserError
from fedjax_norm.options import option


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """A flag whose value chooses the config class.

  Attributes:
    name: name of the flag.
    default: value of the flag if it is not given.
    configs: value of the flag -> config class.
    help: value of the flag -> one sentence for ``--help``.
  """

  name: str
  default: str
  configs: Mapping[str, type[Config]]
  help: Mapping[str, str]

  @functools.cache  # noqa: B019
  def config(self, value: str) -> type[Config]:
    """Returns the config class of a value of the flag, with the flag as one more option.

    Raises:
      UserError: the flag does not have this value.
    """
    if value not in self.configs:
      raise UserError(f"--{self.name} is {value!r}; choose one of {', '.join(self.configs)}.")
    text = " ".join(f"{name}: {sentence}" for name, sentence in self.help.items())
    fields = [(self.name, str, option(value, text, choices=tuple(self.configs)))]
    base, group = self.configs[value], {"group": "algorithm"}
    return dataclasses.make_dataclass(
      base.__name__, fields, bases=(base,), frozen=True, namespace=group
    )

  def config_for(self, arguments: Sequence[str]) -> type[Config]:
    """Returns the config class that a command line chooses (see :meth:`value_in`).

    Raises:
      UserError: the command line gives the flag an unknown value.
    """
    return self.config(self.value_in(arguments))

  def value_in(self, arguments: Sequence[str]) -> str:
    """Returns the value of the flag in a command line and its flag files, or the default.

    ``arguments`` is the command line without the program's name.
    """
    words = flags.FlagValues().read_flags_from_files(list(arguments))
    value, _ = take_flag(self.name, words)
    return self.default if value is None else value


def take_flag(name: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
  """Returns the last value of a flag in a command line, or None, and all other arguments."""
  value, others = None, []
  words = iter(arguments)
  for word in words:
    flag, equals, text = word.partition("=")
    if flag in (f"--{name}", f"-{name}"):
      value = text if equals else next(words, "")
    else:
      others.append(word)
      if word == "--":  # what follows are no flags
        others += words
  return value, others


def choice_of(flag: str, methods: Mapping[str, Method], base: type[Config] = Config) -> Choice:
  """Returns the flag that chooses one of several methods; its default is the first of them.

  Args:
    flag: name of the flag.
    methods: value of the flag -> method.
    base: class of the options that do not depend on the method.
  """
  configs = {name: config_of(method, base) for name, method in methods.items()}
  help = {name: method.help for name, method in methods.items()}
  return Choice(flag, next(iter(methods)), configs, help)
