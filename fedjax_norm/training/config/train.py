"""The options that a run of any method has, and those of a run of one method."""

import dataclasses
import functools
import inspect
from typing import Any

from fedjax_norm.algorithms.clock import NetworkConfig
from fedjax_norm.algorithms.contract import Method
from fedjax_norm.control.skewscout import ScoutConfig
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.config import EvaluationConfig
from fedjax_norm.options import of, with_defaults
from fedjax_norm.training.config.epochs import EpochsConfig
from fedjax_norm.training.config.freeze import FreezeConfig
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.config.machine import MachineConfig, MappingConfig, RunConfig
from fedjax_norm.training.config.schedule import Schedule
from fedjax_norm.training.task.config import TaskConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig(
  NetworkConfig, MappingConfig, EvaluationConfig, FreezeConfig, Schedule, LoopConfig
):
  """The options that a run of any method has, besides those of the method and of the task."""


@functools.cache
def config_of(method: Method, base: type = TrainConfig) -> Any:
  """The class of all options of a run of a method, with the method's own defaults.

  Args:
    method: a row of the registry.
    base: the options besides the method's, :class:`TrainConfig` or a class that inherits from it.
  """
  groups: list[type] = [method.config]
  if method.theta:
    groups.append(ScoutConfig)
  if method.stepwise:
    groups.append(EpochsConfig)
  _check_names(method)
  bases = (*(group for group in groups if not issubclass(base, group)), base)
  without = (*method.without, *(("cohort",) if method.all_clients else ()))
  namespace = {"row": method, "algorithm": method.name, "usual": method.usual, "hidden": without}
  name = f"{method.config.__name__}Run"
  kind = dataclasses.make_dataclass(name, [], bases=bases, frozen=True, namespace=namespace)
  return with_defaults(kind, **method.defaults)


def _check_names(method: Method) -> None:
  """Refuses a method whose options or functions have the name of another option of a run.

  Raises:
    UserError: one has, so that one value would mean two things.
  """
  others = {one.name: kind for kind in _OTHERS for one in of(kind)}
  for kind in method.config.__mro__:
    taken = others.keys() & (vars(kind).keys() | inspect.get_annotations(kind).keys())
    if taken:
      name = min(taken)
      raise UserError(
        f"{kind.__name__}.{name} of method {method.name!r} has the name of an option of "
        f"{others[name].__name__}, and all options of a run share one namespace; rename it."
      )


_OTHERS = (TrainConfig, TaskConfig, MachineConfig, RunConfig)
