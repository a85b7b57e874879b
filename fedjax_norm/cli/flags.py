"""The command line of a binary: a flag for each option of its configuration, and ``--help``."""

import sys
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

from absl import flags

import __main__
from fedjax_norm import number_text, options
from fedjax_norm.options import Option

C = TypeVar("C", bound=options.Options)


def shown(kind: type[options.Options]) -> list[Option]:
  """The options that are flags: all but those that the class names as ``hidden``."""
  hidden = getattr(kind, "hidden", ())
  return [one for one in options.of(kind) if one.name not in hidden]


def define(kind: type[options.Options], values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines a flag for each option.

  Args:
    kind: the class of the configuration.
    values: where the flags are defined.
  """
  for one in shown(kind):
    given = one.default, _sentences(one), values
    if one.choices:
      flags.DEFINE_enum(one.name, one.default, one.choices, *given[1:])
    elif bool in one.types:
      flags.DEFINE_boolean(one.name, *given)
    else:
      flags.DEFINE(_Reader(one), one.name, *given, _Writer())


def parse(kind: type[C], values: flags.FlagValues = flags.FLAGS) -> C:
  """The configuration of the flags that were given.

  Args:
    kind: its class.
    values: the parsed flags.

  Raises:
    UserError: a value that cannot be, or an option that does nothing.
  """
  return options.make(kind, **given(kind, values))


def given(kind: type[options.Options], values: flags.FlagValues) -> dict[str, Any]:
  """The options that were given, by name.

  Args:
    kind: the class of the configuration.
    values: the parsed flags.
  """
  flags_of = {one.name: values[one.name] for one in shown(kind)}
  return {name: flag.value for name, flag in flags_of.items() if flag.present}


def read(one: Option, text: str) -> Any:
  """The value that a text on the command line stands for.

  Args:
    one: the option.
    text: as it was given.

  Raises:
    ValueError: it stands for none.
  """
  most = one.limits["most"]
  return _READ[one.types](text, max(number_text.MOST, int(most or 0)))


def define_help(kind: type[options.Options], values: flags.FlagValues = flags.FLAGS) -> None:
  """Lets ``--help`` print :func:`help_of` the main module and exit with code 0."""
  flags.DEFINE_flag(_Help(kind), values)


def help_of(kind: type[options.Options], description: str) -> str:
  """The text of ``--help``: the options of a binary under the headings of their groups.

  Args:
    kind: the class of its configuration.
    description: what the binary does.
  """
  parts = [description.strip()]
  by_group: dict[str, list[Option]] = {}
  for one in shown(kind):
    by_group.setdefault(one.group, []).append(one)
  for group, members in by_group.items():
    parts.append(f"{group}:")
    for one in members:
      text = textwrap.fill(_told(one), 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
      parts[-1] += f"\n  --{_header(one)}\n{text}"
  parts.append(
    "--flagfile=FILE reads options from a file, one on each line.\n"
    "--helpfull also lists the options of the libraries."
  )
  return "\n\n".join(parts)


class _Help(flags.BooleanFlag):
  def __init__(self, kind: type[options.Options]):
    super().__init__("help", False, "Print this help.", short_name="?", allow_override=True)
    self._kind = kind

  def parse(self, argument: Any) -> None:
    """Prints the help; called by absl where the flag is given."""
    if self._parse(argument):
      print(help_of(self._kind, __main__.__doc__ or ""))
      sys.exit(0)


class _Reader(flags.ArgumentParser):
  """Reads the value of an option from text."""

  def __init__(self, one: Option):
    super().__init__()
    self._one = one

  def parse(self, argument: Any) -> Any:
    """The value; a default already is one."""
    if not isinstance(argument, str):
      return argument
    return read(self._one, argument)

  def flag_type(self) -> str:
    """What ``--help`` calls the value."""
    return _KINDS[self._one.types]


class _Writer(flags.ArgumentSerializer):
  def serialize(self, value: Any) -> str:
    """The text that reads as the value."""
    return written(value)


def _whole_or_text(text: str, most: int) -> int | str:
  try:
    return number_text.whole(text, most)
  except ValueError:
    return text


def _numbers(text: str, _: int) -> tuple[float, ...]:
  try:
    return tuple(number_text.real(item.strip()) for item in text.split(","))
  except ValueError:
    raise ValueError("give finite numbers in plain digits, with commas between.") from None


_READ: dict[tuple[type, ...], Callable[[str, int], Any]] = {
  (int,): number_text.whole,
  (float,): lambda text, _: number_text.real(text),
  (str,): lambda text, _: text,
  (tuple,): _numbers,
  (int, str): _whole_or_text,
}
_KINDS = {
  (int,): "an integer",
  (float,): "a number",
  (str,): "a text",
  (tuple,): "numbers with commas between",
  (int, str): "an integer or a word",
}


def written(value: Any) -> str:
  """A value as it is written on the command line."""
  return ",".join(map(written, value)) if isinstance(value, tuple) else str(value)


def _header(one: Option) -> str:
  if bool in one.types:
    return f"[no]{one.name}"
  return f"{one.name}=<{'one of the choices' if one.choices else _KINDS[one.types]}>"


def _sentences(one: Option) -> str:
  """The help of an option and what it needs; absl adds the choices and the default."""
  if one.needs is None:
    return one.help
  name, equals, values = one.needs.partition("=")
  return f"{one.help} It needs --{name}{equals}{' or '.join(values.split(','))}."


def _told(one: Option) -> str:
  told = _sentences(one)
  if one.choices:
    told += f" Choices: {', '.join(one.choices)}."
  if one.default is not None and one.default != ():
    shown = str(one.default).lower() if isinstance(one.default, bool) else written(one.default)
    told += f" Default: {shown}."
  return told
