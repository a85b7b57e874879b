"""Shares the compiled functions of a program with runs that differ only in data, seed or rates."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from fedjax_norm.options import of
from fedjax_norm.training.config.machine import RunConfig
from fedjax_norm.training.config.schedule import Schedule
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.task.task import Task

# Options that no compiled function depends on: the loop passes rates and lengths as data.
_FREE = {one.name for kind in (Schedule, RunConfig) for one in of(kind)}
_FREE |= {"rounds", "eval_every", "seed", "drift_rounds"}


class Programs:
  """Builds the programs of several runs; each shares what the last built one has compiled.

  A program is built anew for each run, which takes a moment, so that everything on the host (rates,
  FixBN's freeze, thresholds, the clock) is that run's own. Only compiled functions are shared, and
  only if they would be the same.
  """

  def __init__(self, make: Callable[[Task, Any], Program]) -> None:
    """``make`` builds a program from a task and its options with all defaults filled in."""
    self._make = make
    self._built: tuple[Program, Task, Any] | None = None

  @property
  def built(self) -> bool:
    """Whether a program was built."""
    return self._built is not None

  def of(self, task: Task, config: Any) -> Program:
    """Returns the program of a run, given its task and its options with all defaults filled in."""
    if self._built and self._built[1] is task and self._built[2] == config:
      return self._built[0]
    program = self._make(task, config)
    if self._built and _compile_the_same(self._built[1:], (task, config)):
      return share(self._built[0], program, task)
    self._built = program, task, config
    return program


def share(compiled: Program, program: Program, task: Task) -> Program:
  """Returns ``program`` with the compiled functions of another one, which must do the same.

  Args:
    compiled: the program whose functions are shared, and the mapping in which they run.
    program: the program of the run.
    task: the task of the run.
  """
  phases = {
    name: phase._replace(
      algorithm=compiled.phases[name].algorithm, recalibrate=compiled.phases[name].recalibrate
    )
    for name, phase in program.phases.items()
  }
  scout = program.skewscout
  if scout and compiled.skewscout:
    scout = scout._replace(model_traveling=compiled.skewscout.model_traveling)
  return program._replace(
    phases=phases,
    mapping=compiled.mapping,
    evaluate=compiled.evaluate.for_task(task),
    intervals=compiled.intervals,
    diagnose=compiled.diagnose,
    skewscout=scout,
  )


def _compile_the_same(one: tuple[Task, Any], other: tuple[Task, Any]) -> bool:
  """Returns whether the programs of two (task, options) have the same compiled functions."""
  (task, config), (other_task, other_config) = one, other
  if type(config) is not type(other_config):
    return False
  if config.seed != other_config.seed and config.depends_on_seed:
    return False
  fine_tunes = config.fine_tune_steps is not None and config.fine_tune_lr is None
  free = _FREE - {"lr"} if fine_tunes else _FREE
  names = {one.name for one in dataclasses.fields(config)} - free
  return (
    all(getattr(config, name) == getattr(other_config, name) for name in names)
    and task.model == other_task.model
    and task.data.num_clients == other_task.data.num_clients
    and task.objective == other_task.objective
    and _equal(task.statistics, other_task.statistics)
  )


def _equal(one: Any, other: Any) -> bool:
  """Returns whether two dicts of arrays are equal."""
  return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)
