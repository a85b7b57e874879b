"""A flag that is read before the others, for it says which others there are."""

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
  """A flag whose value chooses the class of the other options.

  Attributes:
    name: of the flag.
    default: its value when it is not given.
    kinds: value -> the class of the options that come with it.
    help: value -> one sentence.
  """

  name: str
  default: str
  kinds: Mapping[str, type[Config]]
  help: Mapping[str, str]

  @functools.cache  # noqa: B019
  def kind(self, value: str) -> type[Config]:
    """The class of the options of a value, with the flag itself among them.

    Raises:
      UserError: an unknown value.
    """
    if value not in self.kinds:
      raise UserError(f"--{self.name} is {value!r}; choose one of {', '.join(self.kinds)}.")
    text = " ".join(f"{name}: {sentence}" for name, sentence in self.help.items())
    field = option(value, text, choices=tuple(self.kinds))
    base = self.kinds[value]
    return dataclasses.make_dataclass(
      base.__name__,
      [(self.name, str, field)],
      bases=(base,),
      frozen=True,
      namespace={"group": "algorithm"},
    )

  def of(self, arguments: Sequence[str]) -> type[Config]:
    """The class of the options that a command line chooses (see :meth:`chosen`).

    Raises:
      UserError: an unknown value.
    """
    return self.kind(self.chosen(arguments))

  def chosen(self, arguments: Sequence[str]) -> str:
    """The value that a command line gives the flag.

    Args:
      arguments: without the program's name; flag files are read.
    """
    value, words = self.default, flags.FlagValues().read_flags_from_files(list(arguments))
    for place, word in enumerate(words):
      if word in (f"--{self.name}", f"-{self.name}") and place + 1 < len(words):
        value = words[place + 1]
      elif word.lstrip("-").startswith(f"{self.name}=") and word.startswith("-"):
        value = word.partition("=")[2]
    return value


def choice_of(flag: str, methods: Mapping[str, Method], base: type[Config] = Config) -> Choice:
  """A flag that chooses one of several methods; its default is the first.

  Args:
    flag: its name.
    methods: by the flag's value.
    base: the options besides the method's.
  """
  return Choice(
    flag,
    next(iter(methods)),
    {name: config_of(method, base) for name, method in methods.items()},
    {name: method.help for name, method in methods.items()},
  )
