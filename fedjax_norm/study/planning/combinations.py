"""The contenders of a study: the combinations of its lists, with the options of their runs."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.cli import train
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.errors import UnusedOptionError, UserError
from fedjax_norm.norm.spec import NORMS
from fedjax_norm.options import from_json, make
from fedjax_norm.study.planning import axes
from fedjax_norm.study.planning.axes import Choice
from fedjax_norm.study.planning.budget import EVALUATIONS
from fedjax_norm.study.planning.config import StudyConfig
from fedjax_norm.study.sources import Sources
from fedjax_norm.training.task.task import Task

_CLIENTS = 20  # clients that are evaluated by default

FEWEST = 4
"""Rounds of the shortest run of a contender; FixBN freezes after half of them."""


class Cell(NamedTuple):
  """A contender as the plan has it.

  Attributes:
    name: unique name of its files.
    label: label that is unique within its setting, such as ``gn, fedavg, 10 local steps``.
    setting: label of the partition.
    options: the options by which contenders differ.
    flags: all options of its runs that are not the default, except rate, rounds and seeds.
    rounds: rounds of a final run, or None for those of ``flags``; 0 if the contender is impossible.
    eval_every: rounds between two evaluations, also in the search, so that all runs of a contender
      share one compiled program; None for those of ``flags``.
    seconds: expected time on one worker.
    reason: why the contender is impossible, as one sentence; None if it is possible.
    rates: its own grid of learning rates, which may grow; None for the grid of the plan.
    measure: the measure by which its rate is chosen; None for that of the plan.
  """

  name: str
  label: str
  setting: str
  options: dict[str, Any]
  flags: dict[str, Any]
  rounds: int | None = 0
  eval_every: int | None = 1
  seconds: float = 0.0
  reason: str | None = None
  rates: tuple[float, ...] | None = None
  measure: str | None = None

  def config(self, **more: Any) -> Any:
    """Returns the options of a run, of the class of ``experiments.run``; ``more`` are added."""
    return make(ANY_METHOD.config(self.flags["method"]), **_options(self.flags, **more))


class Draft(NamedTuple):
  """A contender whose length is not known yet.

  Attributes:
    cell: the contender without length and expected time.
    config: the options of its runs with all defaults filled in; None if it is impossible.
    task: its task; None if it is impossible.
    rounds: rounds for each local step of a client.
  """

  cell: Cell
  config: Any = None
  task: Task | None = None
  rounds: float = 0.0

  @property
  def key(self) -> str:
    """What the times of a contender depend on most: its algorithm and its local steps."""
    return f"{self.cell.options['algorithm']} {self.cell.options.get('local_steps', '')}".strip()

  @property
  def kind(self) -> str:
    """What is tested, such as ``classification`` (see ``Task.kind``)."""
    return self.task.kind if self.task else ""

  @property
  def phases(self) -> int:
    """Number of training programs of a run."""
    return 2 if NORMS[self.config.norm].freezes_statistics else 1

  @property
  def least_steps(self) -> int:
    """Local steps of the shortest run."""
    return math.ceil(FEWEST / self.rounds)

  def of_effort(self, effort: int, shortest: int, **seeds: int) -> Cell:
    """Returns the contender with the rounds in which clients take ``effort`` local steps.

    Args:
      effort: local steps of a final run.
      shortest: local steps of the shortest run; the contender is impossible if they are too few.
      **seeds: ``seed`` and ``seeds`` of the final runs.
    """
    if self.cell.reason:
      return self.cell
    if (rounds := round(shortest * self.rounds)) < FEWEST:
      number = f"{rounds} round" + "s" * (rounds != 1)
      return self.cell._replace(
        reason=f"its shortest run, of {shortest} local steps, would have {number}, fewer than "
        f"{FEWEST}; give a new study --steps={self.least_steps} or more."
      )
    rounds = round(effort * self.rounds)
    cell = self.cell._replace(rounds=rounds, eval_every=-(-rounds // EVALUATIONS))
    try:
      train.check(cell.config(rounds=rounds, eval_every=cell.eval_every, **seeds))
    except UserError as error:
      return self.cell._replace(reason=str(error))
    return cell


def drafts(config: StudyConfig, sources: Sources, devices: int) -> list[Draft]:
  """Returns all combinations of a study's lists.

  Args:
    config: the options of the study.
    sources: loads the data.
    devices: CPU devices of a process.

  Raises:
    UserError: a list or the data cannot be read, or an option would have no effect anywhere.
  """
  lists = config.norms, config.algorithms, config.local_steps, config.partitions
  given = config.given()
  sources.of(config)  # an error in the data is not one of a combination
  found: list[tuple[Choice, Draft | UserError]] = []
  unused: list[dict[str, UnusedOptionError]] = []
  for choice in axes.combine(*lists):
    try:
      flags, without_effect = axes.resolve(choice, given)
      unused.append(without_effect)
      found.append((choice, _draft(choice, flags, config, sources, devices)))
    except UserError as error:
      found.append((choice, error))
  for name in given if unused else ():
    if all(name in one for one in unused):
      raise unused[0][name]
  settings = (one.cell.setting for _, one in found if isinstance(one, Draft))
  default = next(settings, "default")
  return [
    one if isinstance(one, Draft) else _impossible(choice, default, one) for choice, one in found
  ]


def _draft(
  choice: Choice, flags: dict[str, Any], study: StudyConfig, sources: Sources, devices: int
) -> Draft:
  """Returns a contender with its task.

  Raises:
    UserError: the task or the method refuses the options.
  """
  config: Any = make(ANY_METHOD.config(choice.algorithm.name), **_options(flags, seed=study.seed))
  config, task = train.prepare(config, sources.of(config))
  more: dict[str, Any] = {}
  if study.evaluate_clients is None and task.kind == "classification" and not study.relabelled:
    more["evaluate_clients"] = min(_CLIENTS, task.data.num_clients)
  single = config.one_device or config.backend in ("vmap", "scan")
  more["host_devices"] = 1 if single else min(devices, config.cohort)
  sizes = np.asarray(task.data.sizes)
  steps = config.batch_size * config.cohort / config.round_examples(config.cohort)
  setting = choice.partition.label if choice.partition else config.partition
  cell = _cell(choice, setting, {**flags, **more})
  config = dataclasses.replace(config, **more)
  return Draft(cell, config, task, steps / float(np.mean(config.steps(sizes))))


def _impossible(choice: Choice, default: str, error: UserError) -> Draft:
  """Returns a contender that cannot be trained; ``default`` labels the default partition."""
  setting = choice.partition.label if choice.partition else default
  return Draft(_cell(choice, setting, {})._replace(reason=str(error)))


def _cell(choice: Choice, setting: str, flags: dict[str, Any]) -> Cell:
  return Cell(choice.name(setting), choice.label, setting, choice.options(setting), flags)


def _options(flags: dict[str, Any], **more: Any) -> dict[str, Any]:
  """Returns options as ``make`` takes them from options as a cell stores them."""
  return from_json({**{name: v for name, v in flags.items() if name != "method"}, **more})
