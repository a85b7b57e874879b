"""The options that every run has, and the class of all options of a run of one method."""

import dataclasses
import functools
import inspect
from typing import Any

from fedjax_norm.algorithms.contract import Method
from fedjax_norm.algorithms.costs.network_profiles import NetworkConfig
from fedjax_norm.control.skewscout import ScoutConfig
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.config import EvaluationConfig
from fedjax_norm.options import of, with_defaults
from fedjax_norm.training.config.epochs import EpochsConfig
from fedjax_norm.training.config.freeze_options import FreezeConfig
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.config.machine import MachineConfig, MappingConfig, RunConfig
from fedjax_norm.training.config.schedule import Schedule
from fedjax_norm.training.task.config import TaskConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig(
  NetworkConfig, MappingConfig, EvaluationConfig, FreezeConfig, Schedule, LoopConfig
):
  """The options that every run has; ``config_of`` adds the options of a method."""


@functools.cache
def config_of(method: Method, base: type = TrainConfig) -> Any:
  """Returns the class of all options of a run of a method, with the method's defaults.

  ``base`` has the method-independent options: :class:`TrainConfig` or a subclass.
  """
  groups: list[type] = [method.config]
  if method.theta:
    groups.append(ScoutConfig)
  if method.stepwise:
    groups.append(EpochsConfig)
  _check_names(method)
  bases = (*(group for group in groups if not issubclass(base, group)), base)
  hidden = (*method.hidden_options, *(("cohort",) if method.all_clients else ()))
  names = {"row": method, "algorithm": method.name, "usual": method.default_lengths}
  names |= {"hidden": hidden}
  name = f"{method.config.__name__}Run"
  kind = dataclasses.make_dataclass(name, [], bases=bases, frozen=True, namespace=names)
  return with_defaults(kind, **method.defaults)


def _check_names(method: Method) -> None:
  """Raises a UserError if an option or function of a method has the name of another option."""
  others = {one.name: kind for kind in _OTHERS for one in of(kind)}
  for kind in method.config.__mro__:
    duplicates = others.keys() & (vars(kind).keys() | inspect.get_annotations(kind).keys())
    if duplicates:
      name = min(duplicates)
      raise UserError(
        f"{kind.__name__}.{name} of method {method.name!r} has the name of an option of "
        f"{others[name].__name__}, and all options of a run share one namespace; rename it."
      )
    for old in _RENAMED.keys() & vars(kind).keys():
      raise UserError(
        f"{kind.__name__}.{old} of method {method.name!r} is never called; its name is now "
        f"{_RENAMED[old]}."
      )


# Methods of configurations that subclasses override, by their names before version 0.4.
_RENAMED = {
  "policy": "statistics_policy",
  "in_force": "fill_defaults",
  "of_a_seed": "depends_on_seed",
}


_OTHERS = (TrainConfig, TaskConfig, MachineConfig, RunConfig)
