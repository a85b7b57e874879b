"""The command line of a binary: a flag for each option of its config class, and ``--help``."""

import sys
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

from absl import flags

from fedjax_norm import number_parsing, options
from fedjax_norm.invocation import as_started
from fedjax_norm.options import Option

C = TypeVar("C", bound=options.Options)


def shown(kind: type[options.Options]) -> list[Option]:
  """Returns the options that are flags: all except those in the class attribute ``hidden``."""
  hidden = getattr(kind, "hidden", ())
  return [one for one in options.of(kind) if one.name not in hidden]


def define(kind: type[options.Options], values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines in ``values`` a flag for each option of the config class ``kind``."""
  for one in shown(kind):
    text = _help_sentences(one)
    if one.choices:
      flags.DEFINE_enum(one.name, one.default, one.choices, text, values)
    elif bool in one.types:
      flags.DEFINE_boolean(one.name, one.default, text, values)
    else:
      flags.DEFINE(_Parser(one), one.name, one.default, text, values, _Serializer())


def parse(kind: type[C], values: flags.FlagValues = flags.FLAGS) -> C:
  """Returns a config of the class ``kind`` from the parsed flags ``values``.

  Raises:
    UserError: a value is invalid, or a given option would have no effect.
  """
  return options.make(kind, **given(kind, values))


def given(kind: type[options.Options], values: flags.FlagValues) -> dict[str, Any]:
  """Returns name -> value of the options that the command line, a flag file or a preset sets."""
  flags_of = {one.name: values[one.name] for one in shown(kind)}
  return {name: flag.value for name, flag in flags_of.items() if flag.present}


def parse_value(one: Option, text: str) -> Any:
  """Returns the value of an option from its text on the command line.

  Raises:
    ValueError: the text is not a value of the option.
  """
  most = one.limits["most"]
  return _READ[one.types](text, max(number_parsing.MAX_INT, int(most or 0)))


def define_help(
  kind: type[options.Options],
  description: str,
  values: flags.FlagValues = flags.FLAGS,
  end: str = "",
) -> None:
  """Makes ``--help`` print a description and the options, and exit with code 0.

  ``--helpfull`` prints the flags of the libraries too. ``end`` are lines about further flags.
  """
  flags.DEFINE_flag(_Help("help", lambda: help_of(kind, description, end)), values)
  flags.DEFINE_flag(_Help("helpfull", values.get_help), values)


def help_of(kind: type[options.Options], description: str, end: str = "") -> str:
  """Returns the text of ``--help``, with the options under the headings of their groups.

  Args:
    kind: config class of the binary.
    description: purpose of the command; commands in it have their names of a checkout.
    end: lines about flags that are not options, such as ``--preset``.
  """
  parts = [description.strip().replace("``", "")]
  by_group: dict[str, list[Option]] = {}
  for one in shown(kind):
    by_group.setdefault(one.group, []).append(one)
  for group, members in by_group.items():
    parts.append(f"{group}:")
    for one in members:
      text = textwrap.fill(_help_text(one), 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
      parts[-1] += f"\n  --{_header(one)}\n{text}"
  lines = [
    *end.splitlines(),
    "--flagfile=FILE reads flags from a file, one on each line.",
    "--helpfull also lists the flags of the libraries.",
  ]
  return as_started("\n\n".join([*parts, "\n".join(lines)]))


class _Help(flags.BooleanFlag):
  """A flag that prints a text and exits with code 0; that of absl exits with code 1."""

  def __init__(self, name: str, text: Callable[[], str]) -> None:
    own = name == "help"
    what = "Print this help." if own else "Print the flags of the libraries too."
    short = "?" if own else None
    super().__init__(name, False, what, short_name=short, allow_override=True)
    self._text = text

  def parse(self, argument: Any) -> None:
    """Prints the text and exits; absl calls this method if the flag is given."""
    if self._parse(argument):
      print(self._text())
      sys.exit(0)


class _Parser(flags.ArgumentParser):
  """Parses the text of an option's flag."""

  def __init__(self, one: Option) -> None:
    super().__init__()
    self._one = one

  def parse(self, argument: Any) -> Any:
    """Returns the value of a text; returns anything else, such as a default, unchanged."""
    return parse_value(self._one, argument) if isinstance(argument, str) else argument

  def flag_type(self) -> str:
    """Returns a name for the type of the value, such as "an integer", for absl's help."""
    return _KINDS[self._one.types]


class _Serializer(flags.ArgumentSerializer):
  def serialize(self, value: Any) -> str:
    """Returns a value as text for a flag file."""
    return format_value(value)


def _whole_or_text(text: str, most: int) -> int | str:
  try:
    return number_parsing.parse_int(text, most)
  except ValueError:
    return text


def _numbers(text: str, _: int) -> tuple[float, ...]:
  try:
    return tuple(number_parsing.parse_float(item.strip()) for item in text.split(","))
  except ValueError:
    raise ValueError("give finite numbers in plain digits, separated by commas.") from None


_READ: dict[tuple[type, ...], Callable[[str, int], Any]] = {
  (int,): number_parsing.parse_int,
  (float,): lambda text, _: number_parsing.parse_float(text),
  (str,): lambda text, _: text,
  (tuple,): _numbers,
  (int, str): _whole_or_text,
}
_KINDS = {
  (int,): "an integer",
  (float,): "a number",
  (str,): "a text",
  (tuple,): "numbers separated by commas",
  (int, str): "an integer or a word",
}


def format_value(value: Any) -> str:
  """Returns the value of an option as text for the command line."""
  return ",".join(map(format_value, value)) if isinstance(value, tuple) else str(value)


def _header(one: Option) -> str:
  if bool in one.types:
    return f"[no]{one.name}"
  return f"{one.name}=<{'one of the choices' if one.choices else _KINDS[one.types]}>"


def _help_sentences(one: Option) -> str:
  """Returns an option's help and the other option that it needs, without choices and default."""
  if one.needs is None:
    return one.help
  name, equals, values = one.needs.partition("=")
  return f"{one.help} Needs --{name}{equals}{' or '.join(values.split(','))}."


def _help_text(one: Option) -> str:
  text = _help_sentences(one)
  if one.choices:
    text += f" Choices: {', '.join(one.choices)}."
  if one.default is not None and one.default != ():
    default = format_value(one.default)
    text += f" Default: {default.lower() if isinstance(one.default, bool) else default}."
  return text
