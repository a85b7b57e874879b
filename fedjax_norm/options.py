"""Options of a run: each is defined only once, as a field of a frozen dataclass.

A subclass of :class:`Options` is a group of options. The configuration class of a run inherits from
all groups that it needs, so that every option is an attribute of one object. An option has the same
name in Python and on the command line.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from fedjax_norm.errors import UnusedOptionError, UserError

C = TypeVar("C")

# Values that switch a feature off, so that the options of the feature have no effect.
_OFF = (None, False, 0, "", "none", "off", ())


def option(
  default: Any,
  help: str,
  *,
  choices: Sequence[str] = (),
  least: float | None = None,
  above: float | None = None,
  most: float | None = None,
  below: float | None = None,
  needs: str | None = None,
) -> Any:
  """Returns a dataclass field that defines an option in a subclass of :class:`Options`.

  Args:
    default: default value; None if the default depends on other options or the data.
    help: one or two sentences for ``--help``.
    choices: allowed strings; empty for any.
    least: smallest allowed number.
    above: exclusive lower limit.
    most: largest allowed number.
    below: exclusive upper limit.
    needs: another option without which this one has no effect: ``"norm=brn"`` for one value,
      ``"lr_schedule=step,plateau"`` for two, ``"momentum"`` for any value that turns it on.
  """
  limits = {"least": least, "above": above, "most": most, "below": below}
  metadata = {"help": help, "choices": tuple(choices), "limits": limits, "needs": needs}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
  """A group of options; creating an object checks the values of its options.

  A subclass can define ``check(self)`` for conditions on several options; its base classes' methods
  ``check`` also run.
  """

  group: ClassVar[str] = "run"
  """The heading above the options of this class in ``--help``."""

  def __post_init__(self) -> None:
    check(self)


class Option(NamedTuple):
  """The description of an option; :func:`option` explains the attributes that are not listed here.

  Attributes:
    name: name of the field and of the flag.
    types: possible types of the value, without None.
    optional: whether the value can be None.
    limits: the limits ``least``, ``above``, ``most`` and ``below``, each None or a number.
    group: heading above the option in ``--help``.
  """

  name: str
  types: tuple[type, ...]
  optional: bool
  default: Any
  help: str
  choices: tuple[str, ...]
  limits: Mapping[str, float | None]
  needs: str | None
  group: str


def of(config_class: type) -> tuple[Option, ...]:
  """Returns all options of a subclass of :class:`Options`, in the order of its dataclass fields."""
  return _read(config_class)


@functools.cache
def _read(config_class: type) -> tuple[Option, ...]:
  hints = typing.get_type_hints(config_class)
  groups: dict[str, str] = {}
  for base in reversed(config_class.__mro__):
    for name in inspect.get_annotations(base):
      # A subclass that only changes a default does not change the heading.
      if "group" in vars(base) or name not in groups:
        groups[name] = getattr(base, "group", "run")
  return tuple(
    Option(
      field.name,
      _types(hints[field.name]),
      type(None) in typing.get_args(hints[field.name]),
      field.default,
      **field.metadata,
      group=groups[field.name],
    )
    for field in dataclasses.fields(config_class)
    if "help" in field.metadata
  )


def _types(hint: Any) -> tuple[type, ...]:
  parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  return tuple(typing.get_origin(part) or part for part in parts if part is not type(None))


def with_defaults(config_class: type[C], /, **defaults: Any) -> type[C]:
  """Returns a subclass of ``config_class`` whose options in ``defaults`` have new defaults."""
  fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
  changed = [
    (name, fields[name].type, dataclasses.field(default=value, metadata=fields[name].metadata))
    for name, value in defaults.items()
  ]
  return dataclasses.make_dataclass(
    config_class.__name__, changed, bases=(config_class,), frozen=True
  )


def make(config_class: type[C], /, *groups: Any, **given: Any) -> C:
  """Returns a checked object of a configuration class.

  Args:
    config_class: subclass of :class:`Options` that inherits from the classes of all ``groups``.
    *groups: objects such as ``LoopConfig(rounds=10)``, from which values that differ from the
      defaults are taken.
    **given: further options by name; they override the values from ``groups``.

  Raises:
    UserError: the class lacks one of the options or groups, or an option has a wrong value or no
      effect.
  """
  known = {item.name: item for item in of(config_class)}
  fields = [field.name for field in dataclasses.fields(config_class)]  # type: ignore[arg-type]
  for name in given:
    if name not in fields:
      near = difflib.get_close_matches(name, fields, 3) or sorted(known)
      raise UserError(f"there is no option {name!r} here; choose from {', '.join(near)}.")
  values: dict[str, Any] = {}
  for group in groups:
    if not isinstance(group, Options) or not issubclass(config_class, type(group)):
      name = type(group).__name__
      raise UserError(f"{name} is no group of options of {config_class.__name__}; drop {name}.")
    changed = (f for f in dataclasses.fields(group) if getattr(group, f.name) != f.default)
    values |= {field.name: getattr(group, field.name) for field in changed}
  config = config_class(**values | given)
  for name in given.keys() & known.keys():  # also if the given value is the default
    _check_needs(config, known[name])
  return config


def from_json(saved: Mapping[str, Any]) -> dict[str, Any]:
  """Returns options that were saved as JSON, with their lists turned back into tuples."""
  return {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items()}


def check(config: Any) -> None:
  """Checks all options of a configuration object.

  Raises:
    UserError: an option has a wrong type, is not an allowed choice, is outside its limits, has no
      effect, or contradicts another option.
  """
  for item in of(type(config)):
    value = getattr(config, item.name)
    if value is None and (item.optional or item.default is None):
      continue
    _check_type(item, value)
    if item.choices and value not in item.choices:
      choices = ", ".join(item.choices)
      raise UserError(f"unknown {item.name} {value!r}; choose one of {choices}.")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
      _check_limits(item, value)
    if value != item.default:
      _check_needs(config, item)
  for base in reversed(type(config).__mro__):
    if "check" in vars(base):
      vars(base)["check"](config)


def refuse_replaced(config: Any, name: str, *others: str) -> None:
  """Checks that the options ``others``, which the setting ``name`` replaces, were not set.

  Raises:
    UserError: one of these options is neither off nor at its default.
  """
  for item in of(type(config)):
    value = getattr(config, item.name)
    if item.name in others and value != item.default and value not in _OFF:
      raise UserError(
        f"--{item.name} does nothing with {name}, which replaces it; drop --{item.name} or {name}."
      )


def _check_type(item: Option, value: Any) -> None:
  kinds: tuple[Any, ...] = item.types
  if float in kinds or int in kinds:
    kinds += (np.integer,)
  if float in kinds:
    kinds += (int, np.floating)
  if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
    wanted = " or ".join(_NAMES.get(kind, kind.__name__) for kind in item.types)
    raise UserError(f"--{item.name} is {value!r}; it must be {wanted}.")


_NAMES = {
  int: "a whole number",
  float: "a number",
  str: "a text",
  bool: "true or false",
  tuple: "a tuple of numbers",
}


_LIMITS = {
  "least": ("at least", operator.ge),
  "above": ("above", operator.gt),
  "most": ("at most", operator.le),
  "below": ("below", operator.lt),
}


def _check_limits(item: Option, value: float) -> None:
  valid = math.isfinite(value)
  wanted = [] if valid else ["finite"]
  for name, (words, compare) in _LIMITS.items():
    if (limit := item.limits[name]) is not None:
      wanted.append(f"{words} {limit:.12g}")
      valid = valid and compare(value, limit)
  if not valid:
    raise UserError(f"--{item.name} is {value:.12g}; it must be {' and '.join(wanted)}.")


def _check_needs(config: Any, item: Option) -> None:
  if item.needs is None or getattr(config, item.name) is None:
    return
  name, _, values = item.needs.partition("=")
  if not hasattr(config, name):  # an option of a group that this configuration does not have
    return
  value = getattr(config, name)
  if str(value) in values.split(",") if values else value not in _OFF:
    return
  wanted = f"--{name}={' or '.join(values.split(','))}" if values else f"--{name}"
  raise UnusedOptionError(item.name, wanted)
