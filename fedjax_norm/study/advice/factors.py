"""What contenders differ in: their norm, their algorithm, and further options."""

import functools
from collections.abc import Mapping
from typing import Any

from fedjax_norm import options
from fedjax_norm.cli.config import Config
from fedjax_norm.norm import NormConfig
from fedjax_norm.study.contender import Contender
from fedjax_norm.training.config.freeze_options import FreezeConfig

# Options of averaging that make a norm another method: FedBN and SiloBN.
_NORM_POLICIES = ("fedbn", "batch_stats")
_LOCAL = {"local_steps": "local step", "local_epochs": "local epoch"}


def norm(contender: Contender) -> str:
  """Returns the norm with its options, such as ``gn groups=8``."""
  return describe({k: v for k, v in contender.options.items() if k in _norm_options()}, " ")


def algorithm(contender: Contender) -> str:
  """Returns the algorithm with the options that only it has, such as ``gaia threshold=0.1``.

  The number of local steps is not among them: it is how much an algorithm communicates.
  """
  names = {"algorithm", *contender.options} - _norm_options() - _shared_options() - {*_LOCAL}
  return describe({k: v for k, v in contender.options.items() if k in names}, " ")


def local_work(contender: Contender) -> str:
  """Returns how long a client trains in a round, such as ``10 local steps``.

  It is ``1 local step`` for an algorithm without such an option, and empty if the algorithm's own
  text fixes it, as in ``fedavg:local_epochs=2``.
  """
  for name, unit in _LOCAL.items():
    if number := contender.options.get(name):
      return f"{number} {unit}{'s' * (number != 1)}"
  return "" if "local_epochs=" in str(contender.options.get("algorithm")) else "1 local step"


def chooses_work(contender: Contender) -> bool:
  """Returns whether a contender's number of local steps is an option beside its algorithm."""
  return any(contender.options.get(name) for name in _LOCAL)


def rest(contender: Contender) -> str:
  """Returns the options of neither the norm nor the algorithm, nor the local steps.

  Learning rates and rounds are not among them, because contenders have their own.
  """
  names = {*contender.options} & _shared_options() - _norm_options() - {*_LOCAL, "rounds"}
  return describe({k: contender.options[k] for k in names if k.partition("_")[0] != "lr"})


def describe(values: Mapping[str, Any], joint: str = ", ") -> str:
  """Returns options as text, the norm and the algorithm first and as bare words."""
  bare = [str(values[name]) for name in ("norm", "algorithm") if name in values]
  others = sorted(values.keys() - {"norm", "algorithm"})
  return joint.join([*bare, *(_option(name, values[name]) for name in others)])


def _option(name: str, value: Any) -> str:
  """Returns an option as its flag has it, without the dashes."""
  if isinstance(value, bool):
    return name if value else f"no{name}"
  return f"{name}={_text(value)}"


def _text(value: Any) -> str:
  if isinstance(value, list | tuple):
    return ",".join(map(_text, value))
  return f"{value:g}" if isinstance(value, float) else str(value)


@functools.cache
def _norm_options() -> frozenset[str]:
  groups = NormConfig, FreezeConfig
  names = (one.name for group in groups for one in options.of(group))
  return frozenset([*names, *_NORM_POLICIES])


@functools.cache
def _shared_options() -> frozenset[str]:
  return frozenset(one.name for one in options.of(Config))
