"""Options: each is written once, as a field of a frozen dataclass.

A class that inherits from :class:`Options` is a group of options. A run's configuration inherits
from all the groups that it needs, so it has every option as an attribute and is passed on whole.
An option has the same name in Python and on the command line.
"""

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from fedjax_norm.errors import UserError

C = TypeVar("C")

# Values that switch a feature off, so that the options of the feature would do nothing.
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
  """A field of an :class:`Options` class.

  Args:
    default: its value when it is not given; None where it follows from other options or the data.
    help: one or two sentences for ``--help``.
    choices: the allowed texts; any by default.
    least: the smallest allowed number.
    above: a number that the value must exceed.
    most: the largest allowed number.
    below: a number that the value must stay below.
    needs: the option without which this one does nothing: ``"norm=brn"``, one of several values
      as in ``"lr_schedule=step,plateau"``, or ``"momentum"`` for any value that switches it on.
  """
  limits = {"least": least, "above": above, "most": most, "below": below}
  metadata = {"help": help, "choices": tuple(choices), "limits": limits, "needs": needs}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
  """A group of options; its values are checked when it is built.

  A class may define ``check(self)`` for what concerns several options at once; the checks of all
  inherited classes run.
  """

  group: ClassVar[str] = "run"
  """The heading under which ``--help`` lists the options of this class."""

  def __post_init__(self):
    check(self)


class Option(NamedTuple):
  """What is known of an option.

  Attributes:
    name: of the field and of the flag.
    types: its possible types, without None.
    optional: whether None is among them.
    default: its value when it is not given.
    help: sentences.
    choices: the allowed texts; empty for any.
    limits: ``least``, ``above``, ``most`` and ``below``, each None or a number.
    needs: as in :func:`option`.
    group: the heading that it belongs under.
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


def of(kind: type) -> tuple[Option, ...]:
  """The options of a class, inherited ones included, in the order of their groups.

  Args:
    kind: a subclass of :class:`Options`.
  """
  hints = typing.get_type_hints(kind)
  owners: dict[str, str] = {}
  for owner in reversed(kind.__mro__):
    for name in inspect.get_annotations(owner):
      # A subclass that only changes a default leaves the option under its heading.
      if "group" in vars(owner) or name not in owners:
        owners[name] = getattr(owner, "group", "run")
  return tuple(
    Option(
      field.name,
      _types(hints[field.name]),
      type(None) in typing.get_args(hints[field.name]),
      field.default,
      **field.metadata,
      group=owners[field.name],
    )
    for field in dataclasses.fields(kind)
    if "help" in field.metadata
  )


def _types(hint: Any) -> tuple[type, ...]:
  parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  return tuple(typing.get_origin(part) or part for part in parts if part is not type(None))


def with_defaults(kind: type[C], /, **defaults: Any) -> type[C]:
  """The same class with other defaults for some of its options."""
  fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
  changed = [
    (name, fields[name].type, dataclasses.field(default=value, metadata=fields[name].metadata))
    for name, value in defaults.items()
  ]
  return dataclasses.make_dataclass(kind.__name__, changed, bases=(kind,), frozen=True)


def make(kind: type[C], /, *groups: Any, **given: Any) -> C:
  """A configuration of the options that were given, checked.

  Args:
    kind: a subclass of :class:`Options` that inherits from the classes of all groups.
    *groups: configurations, such as ``LoopConfig(rounds=10)``; of theirs, what differs from the
      defaults of their classes counts as given.
    **given: further options by name, which win.

  Raises:
    UserError: an option or a group that the class does not have, a wrong value, or an option
      that would do nothing.
  """
  known = {one.name: one for one in of(kind)}
  fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
  for name in given:
    if name not in fields:
      near = difflib.get_close_matches(name, fields, 3) or sorted(known)
      raise UserError(f"there is no option {name!r} here; choose from {', '.join(near)}.")
  values: dict[str, Any] = {}
  for one in groups:
    if not isinstance(one, Options) or not issubclass(kind, type(one)):
      raise UserError(f"{type(one).__name__} is no group of options of {kind.__name__}; drop it.")
    changed = (f for f in dataclasses.fields(one) if getattr(one, f.name) != f.default)
    values |= {field.name: getattr(one, field.name) for field in changed}
  config = kind(**values | given)
  for name in given.keys() & known.keys():  # a given default would do nothing, too
    _check_needs(config, known[name])
  return config


def from_json(saved: Mapping[str, Any]) -> dict[str, Any]:
  """The values of options that were written as JSON, which has lists in place of tuples."""
  return {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items()}


def check(config: Any) -> None:
  """Checks the values of a configuration.

  Raises:
    UserError: one has a wrong type or is outside its limits, does nothing, or contradicts another.
  """
  for one in of(type(config)):
    value = getattr(config, one.name)
    if value is None and (one.optional or one.default is None):
      continue
    _check_type(one, value)
    if one.choices and value not in one.choices:
      choices = ", ".join(one.choices)
      raise UserError(f"unknown {one.name} {value!r}; choose one of {choices}.")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
      _check_limits(one, value)
    if value != one.default:
      _check_needs(config, one)
  for kind in reversed(type(config).__mro__):
    if "check" in vars(kind):
      vars(kind)["check"](config)


def refuse_replaced(config: Any, name: str, *others: str) -> None:
  """Refuses options that another one replaces, unless they have their defaults or are off.

  Args:
    config: the configuration.
    name: of what replaces them.
    *others: the options.

  Raises:
    UserError: one of them was changed.
  """
  for one in of(type(config)):
    value = getattr(config, one.name)
    if one.name in others and value != one.default and value not in _OFF:
      raise UserError(f"--{one.name} does nothing beside {name}, which replaces it; drop one.")


def _check_type(one: Option, value: Any) -> None:
  kinds: tuple[Any, ...] = one.types
  if float in kinds or int in kinds:
    kinds += (np.integer,)
  if float in kinds:
    kinds += (int, np.floating)
  if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
    wanted = " or ".join(_NAMES.get(kind, kind.__name__) for kind in one.types)
    raise UserError(f"--{one.name} is {value!r}; it must be {wanted}.")


_NAMES = {
  int: "a whole number",
  float: "a number",
  str: "a text",
  bool: "true or false",
  tuple: "a tuple of numbers",
}


def _check_limits(one: Option, value: float) -> None:
  least, above, most, below = (one.limits[key] for key in ("least", "above", "most", "below"))
  lower = least is None or value >= least, above is None or value > above
  upper = most is None or value <= most, below is None or value < below
  if all(lower) and all(upper) and math.isfinite(value):
    return
  wanted = [] if math.isfinite(value) else ["finite"]
  if least is not None:
    wanted.append(f"at least {least:.12g}")
  if above is not None:
    wanted.append(f"above {above:.12g}")
  if most is not None:
    wanted.append(f"at most {most:.12g}")
  if below is not None:
    wanted.append(f"below {below:.12g}")
  raise UserError(f"--{one.name} is {value:.12g}; it must be {' and '.join(wanted)}.")


def _check_needs(config: Any, one: Option) -> None:
  if one.needs is None or getattr(config, one.name) is None:
    return
  name, _, values = one.needs.partition("=")
  if not hasattr(config, name):  # of a group that this configuration does not have
    return
  value = getattr(config, name)
  if str(value) in values.split(",") if values else value not in _OFF:
    return
  wanted = f"--{name}={' or '.join(values.split(','))}" if values else f"--{name}"
  raise UserError(f"--{one.name} does nothing here: it needs {wanted}; drop it or add that.")
