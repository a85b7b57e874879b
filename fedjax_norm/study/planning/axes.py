"""The lists of a study's options, such as ``--norms=gn:groups=8,bn``: their syntax and meaning."""

import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedjax_norm import number_parsing
from fedjax_norm.cli.flags import parse_value, shown
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.errors import UnusedOptionError, UserError
from fedjax_norm.norm.spec import NORMS
from fedjax_norm.options import from_json, make

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""The learning rates of ``--lrs=auto``."""

# Norms of ``--norms`` that are another norm with options of the averaging.
_ALIASES: Mapping[str, tuple[str, Mapping[str, str]]] = {
  "fedbn": ("bn", {"fedbn": "true"}),
  "silobn": ("bn", {"batch_stats": "local"}),
}

CHOSEN = {"lr": "--lrs", "rounds": "--steps", "epochs": "--steps", "eval_every": "--steps"}
CHOSEN |= {"seed": "--seed", "seeds": "--seeds", "norm": "--norms", "method": "--algorithms"}
CHOSEN |= {"partition": "--partitions", "workdir": "--workdir"}
"""Options of a run that the study chooses itself, so that an item cannot -> the study's flag."""

# Options that count rounds, of which the runs of a study have different numbers -> what to do.
_IN_ROUNDS = {
  "freeze_round": "give a share such as 25%, half or auto",
  "lr_boundaries": "give shares of the run, such as 0.5,0.75",
  "lr_warmup_rounds": "drop it",
}


class Item(NamedTuple):
  """An item of a list.

  Attributes:
    name: name of the norm, the algorithm or the partition.
    options: option -> value as text.
  """

  name: str
  options: dict[str, str]

  @property
  def key(self) -> str:
    """The item as it is written in the list."""
    return ":".join([self.name, *(f"{name}={value}" for name, value in self.options.items())])

  @property
  def label(self) -> str:
    """The item in words: ``gn, 8 groups`` is ``gn, groups 8``."""
    words = (f"{name} {value}" for name, value in self.options.items())
    return ", ".join([self.name, *words]).replace("_", " ")

  def without(self, *names: str) -> "Item":
    """Returns the item without some of its options."""
    return Item(self.name, {k: v for k, v in self.options.items() if k not in names})


def parse(text: str, flag: str = "the list") -> list[Item]:
  """Returns the items of a list ``NAME[:option=value...],...``, each once.

  Args:
    text: the list.
    flag: the flag that has the list, for errors.

  Raises:
    UserError: an item is empty, or an option has no value, is one that the study chooses, or counts
      rounds.
  """
  items = []
  for part in text.split(","):
    name, *pairs = (word.strip() for word in part.split(":"))
    if not name:
      raise UserError(f"{flag} is {text!r}, with an empty item; separate names by single commas.")
    chosen: dict[str, str] = {}
    for pair in pairs:
      key, equals, value = pair.partition("=")
      if not (key and equals and value):
        raise UserError(f"{part!r} has {pair!r} after a colon; write NAME:option=value.")
      if key in CHOSEN:
        raise UserError(f"{part!r} sets {key}, which {CHOSEN[key]} chooses; drop {pair!r}.")
      refuse_rounds(key, value)
      chosen[key] = value
    items.append(Item(name, chosen))
  return list({item.key: item for item in items}.values())


def refuse_rounds(name: str, *values: Any) -> None:
  """Raises a UserError if an option counts rounds; its ``values`` are numbers or texts."""
  if name in _IN_ROUNDS and any(re.fullmatch(r"[1-9][0-9.]*", str(value)) for value in values):
    raise UserError(
      f"--{name} counts rounds, but contenders and trials have different numbers of rounds; "
      f"{_IN_ROUNDS[name]}."
    )


def parse_steps(text: str) -> list[int]:
  """Returns the numbers of ``--local_steps``.

  Raises:
    UserError: one is not a whole number of at least 1.
  """
  try:
    steps = [number_parsing.parse_int(word.strip()) for word in text.split(",")]
  except ValueError:
    steps = [0]
  if min(steps) < 1:
    raise UserError(f"--local_steps is {text!r}; give whole numbers from 1 on, as in 1,10.")
  return list(dict.fromkeys(steps))


def parse_rates(text: str) -> tuple[float, ...]:
  """Returns the learning rates of ``--lrs`` in rising order.

  Raises:
    UserError: one is not a positive number.
  """
  if text == "auto":
    return RATES
  try:
    rates = [number_parsing.parse_float(word.strip()) for word in text.split(",")]
  except ValueError:
    rates = [0.0]
  if min(rates) <= 0:
    raise UserError(f"--lrs is {text!r}; give auto, or positive numbers as in 0.01,0.03.")
  return tuple(sorted(set(rates)))


class Choice(NamedTuple):
  """One combination of the lists: what a contender is, before its options are checked.

  Attributes:
    norm: the item of ``--norms``.
    algorithm: the item of ``--algorithms``, without ``local_steps``.
    local_steps: local steps per round; None for an algorithm without this option.
    partition: the item of ``--partitions``; None for the data's default.
  """

  norm: Item
  algorithm: Item
  local_steps: int | None
  partition: Item | None

  @property
  def label(self) -> str:
    """The contender in words, such as ``gn, fedavg, 10 local steps``."""
    parts = [self.norm.label, self.algorithm.label]
    if self.local_steps:
      parts.append(f"{self.local_steps} local step{'s' * (self.local_steps > 1)}")
    return ", ".join(parts)

  def name(self, setting: str) -> str:
    """Returns the name of the contender's files; ``setting`` is the label of its partition."""
    steps = [str(self.local_steps)] if self.local_steps else []
    parts = [self.norm.label, self.algorithm.label, *steps, setting]
    return "-".join(re.sub(r"[^A-Za-z0-9.-]+", "_", part) for part in parts)

  def options(self, setting: str) -> dict[str, Any]:
    """Returns the options by which contenders differ."""
    steps = {"local_steps": self.local_steps} if self.local_steps else {}
    return {"norm": self.norm.key, "algorithm": self.algorithm.key, **steps, "partition": setting}


def combine(norms: str, algorithms: str, local_steps: str, partitions: str | None) -> list[Choice]:
  """Returns all combinations of the lists, settings first.

  Raises:
    UserError: a list cannot be read, or a norm or a method is unknown.
  """
  settings = parse(partitions) if partitions else [None]
  names = (*NORMS, *_ALIASES)
  if unknown := [norm.name for norm in parse(norms) if norm.name not in names]:
    raise UserError(f"--norms has {unknown[0]!r}; choose from {', '.join(names)}.")
  found: dict[str, Choice] = {}
  for setting in settings:
    for norm in parse(norms):
      for item in parse(algorithms):
        for steps in _steps_of(item, local_steps):
          choice = Choice(norm, item.without("local_steps"), steps, setting)
          found.setdefault(choice.name(setting.key if setting else ""), choice)
  return list(found.values())


def _steps_of(item: Item, local_steps: str) -> list[int | None]:
  if "local_steps" in item.options:
    return [*parse_steps(item.options["local_steps"])]
  if item.name not in ANY_METHOD.configs:
    known = ", ".join(ANY_METHOD.configs)
    raise UserError(f"--algorithms has {item.name!r}; choose from {known}.")
  has = any(one.name == "local_steps" for one in shown(ANY_METHOD.config(item.name)))
  return [*parse_steps(local_steps)] if has and "local_epochs" not in item.options else [None]


def resolve(
  choice: Choice, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, UnusedOptionError]]:
  """Returns the options of a contender's runs.

  Args:
    choice: the contender.
    given: option -> value for all contenders.

  Returns:
    (option -> value, of those in ``given`` that have no effect here: option -> why).

  Raises:
    UserError: the method lacks an option of the contender, or options contradict each other.
  """
  name, aliased = _ALIASES.get(choice.norm.name, (choice.norm.name, {}))
  kind = ANY_METHOD.config(choice.algorithm.name)
  known = {one.name: one for one in shown(kind)}
  own: dict[str, Any] = {"norm": name}
  items = [Item(name, dict(aliased)), choice.norm, choice.algorithm]
  if choice.partition:
    items.append(choice.partition)
    own["partition"] = choice.partition.name
  if choice.local_steps:
    own["local_steps"] = choice.local_steps
  for option, text in (pair for item in items for pair in item.options.items()):
    if option not in known:
      near = difflib.get_close_matches(option, known, 1)
      hint = f"; did you mean {near[0]}?" if near else "."
      raise UserError(f"{choice.algorithm.name} has no option {option}{hint}")
    own[option] = _value(known[option], text)
  # A cohort is refused by methods in whose rounds all clients train, with their own reason.
  if lacking := [option for option in given if option not in (*known, "cohort")]:
    raise UserError(f"{choice.algorithm.name} has no option {lacking[0]}.")
  shared = dict(given)
  unused: dict[str, UnusedOptionError] = {}
  while True:
    try:
      make(kind, **from_json({**shared, **own}))
      return {"method": choice.algorithm.name, **shared, **own}, unused
    except UnusedOptionError as error:
      if error.option not in shared or error.option in own:
        raise
      unused[error.option] = error
      del shared[error.option]


def _value(option: Any, text: str) -> Any:
  """Returns the value of an option in an item."""
  if bool in option.types:
    if text.lower() not in ("true", "false"):
      raise UserError(f"{option.name} is {text!r}; write {option.name}=true or false.")
    return text.lower() == "true"
  try:
    return parse_value(option, text)
  except ValueError as error:
    raise UserError(f"{option.name} is {text!r}; {str(error).removesuffix('.')}.") from None
