"""The plan of a study: its contenders, their lengths and the expected time, fixed at the start."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from fedjax_norm.cli import start_table
from fedjax_norm.errors import UserError
from fedjax_norm.options import from_json
from fedjax_norm.study.planning import axes, budget, probe, tuning
from fedjax_norm.study.planning.budget import Cost
from fedjax_norm.study.planning.combinations import Cell, Draft, drafts
from fedjax_norm.study.planning.config import AXES, BUDGET, StudyConfig, duration
from fedjax_norm.study.planning.same_study import check_same
from fedjax_norm.study.ranking import Score
from fedjax_norm.study.sources import Sources
from fedjax_norm.training.storage.atomic_files import make_folder, read_json, write_json

__all__ = ["Cell", "Plan", "load_or_make", "read_plan"]

PLAN = "study.json"
LOCK = "study.lock"
"""File by which one process at a time writes a study's plan or its answer."""

FORMAT = 2

SOURCES = Sources()
"""The data of this process's contenders."""

# The measures of each kind of task, by default the first, besides the loss.
_MEASURES = {
  "classification": ("top1", "top5", "balanced_accuracy", "macro_f1", "auroc"),
  "regression": ("r2", "rmse", "mae"),
  "segmentation": ("mean_iou", "pixel_accuracy"),
  "verification": ("top1",),
}


class Plan(NamedTuple):
  """What a study does; made once and stored as ``study.json``.

  Attributes:
    options: the options of the study.
    cells: the contenders.
    effort: local steps of a client in a final run.
    rates: the grid of learning rates; empty if each contender's options have its rate.
    extends: whether the grid may grow.
    seed: first seed, with which rates are searched.
    seeds: number of final runs of a contender.
    measure: measure of the search and of the ranking.
    score: how the values of a run become its score.
    workers: processes side by side that the plan counts on.
    lanes: learning rates of a contender that train side by side on one device.
    costs: algorithm and local steps -> measured times; empty if none were measured, and expected
      times are rough guesses.
    rungs: local steps of the trials of the search, and of the longer trials of the best two rates.
    about: (name, text) of what the data is and of what was decided for the user.
    refusal: why the study does not run, if it takes far longer than its budget; only in a dry run.
  """

  options: dict[str, Any]
  cells: tuple[Cell, ...]
  effort: int
  rates: tuple[float, ...]
  extends: bool
  seed: int
  seeds: int
  measure: str
  score: Score
  workers: int
  lanes: int
  costs: dict[str, Cost]
  rungs: tuple[int, int]
  about: tuple[tuple[str, str], ...] = ()
  refusal: str = ""

  @property
  def search(self) -> tuning.Search:
    """The search for a contender's learning rate."""
    return tuning.Search(self.rates, self.rungs, self.extends, self.score, self.measure)

  @property
  def total_steps(self) -> int:
    """Local steps of a contender: its search with the reserve, and its final runs."""
    return tuning.total_steps(len(self.rates), self.extends, self.seeds, self.effort, self.rungs)

  @property
  def seconds(self) -> float:
    """Expected time of the whole study."""
    return budget.makespan([cell.seconds for cell in self.cells], self.workers)

  def of(self, cell: Cell) -> "Plan":
    """Returns the plan with the grid of learning rates and the measure of a contender."""
    plan = self._replace(measure=cell.measure or self.measure)
    return plan if cell.rates is None else plan._replace(rates=cell.rates, extends=True)

  def is_short(self, cell: Cell, steps: int) -> bool:
    """Returns whether a trial of a contender is measured to take so short that it is not saved."""
    seconds = cell.seconds * steps / self.total_steps
    return bool(self.costs) and seconds < budget.SHORT

  def rounds(self, cell: Cell, steps: int) -> int:
    """Returns the rounds in which a client of a contender takes this many local steps."""
    return round((cell.rounds or 0) * steps / self.effort)


def read_plan(folder: Path) -> Plan:
  """Reads the plan of a study.

  Raises:
    UserError: there is none, it is damaged, or it is of another version of fedjax_norm.
  """
  content = read_json(folder / PLAN)
  if content.pop("format", None) != FORMAT:
    raise UserError(
      f"{folder} holds a study of another version of fedjax_norm; use that version or pass another "
      "--workdir."
    )
  cells = tuple(Cell(**from_json(cell)) for cell in content.pop("cells"))
  costs = {key: Cost(*cost) for key, cost in content.pop("costs").items()}
  about = tuple((name, text) for name, text in content.pop("about", ()))
  return Plan(cells=cells, costs=costs, about=about, **from_json(content))


def load_or_make(config: StudyConfig, folder: Path | None, store: bool = True) -> Plan:
  """Returns the plan in a study's folder; makes and stores it if there is none.

  A stored plan keeps its effort. If the lists of norms, algorithms, local steps or partitions or
  the number of seeds have grown, the new contenders and seeds are added.

  Args:
    config: the options of the study.
    folder: folder of the study; None if it has none.
    store: whether to store the plan in the folder.

  Raises:
    UserError: options are wrong, no contender is possible, the budget is too small, or the folder
      holds a study with other options.
  """
  config = _absolute(config)
  stored = None
  if folder and (folder / PLAN).exists():
    stored = read_plan(folder)
    check_same(folder, stored.options, config)
    if all(stored.options.get(name) == config.saved().get(name) for name in AXES):
      return stored
  plan = _make(config, stored)
  if folder and store and plan != stored:
    make_folder(folder)
    write_plan(folder, plan)
  return plan


def write_plan(folder: Path, plan: Plan) -> None:
  """Writes the plan of a study."""
  cells = [cell._asdict() for cell in plan.cells]
  write_json(folder / PLAN, {"format": FORMAT, **plan._asdict(), "cells": cells})


def _make(config: StudyConfig, stored: Plan | None) -> Plan:
  """Returns the plan of a study; a ``stored`` one keeps its effort and its contenders."""
  workers = stored.workers if stored else config.workers or _workers()
  found = drafts(config, SOURCES, _devices(config, workers))
  possible = [draft for draft in found if not draft.cell.reason]
  if not possible:
    raise UserError(f"no contender can be trained: {found[0].cell.reason}")
  rates, extends = axes.parse_rates(config.lrs), config.lrs == "auto"
  _check_validation(config, possible[0], rates)
  measures = _MEASURES.get(possible[0].kind, ())
  if config.measure and config.measure not in (*measures, "loss"):
    known = ", ".join((*measures, "loss"))
    raise UserError(f"--measure={config.measure} is not measured here; choose one of {known}.")
  seeds = max(config.seeds, stored.seeds if stored else 1)
  if stored and seeds > stored.seeds == 1:
    raise UserError("a study of one seed cannot get more of them; pass another --workdir.")

  def rungs(effort: int) -> tuple[int, int]:
    least = (d.least_steps for d in possible if d.least_steps <= effort)
    return stored.rungs if stored else tuning.rungs(effort, max(least, default=1))

  def steps(effort: int) -> int:
    return tuning.total_steps(len(rates), extends, seeds, effort, rungs(effort))

  costs, effort = (stored.costs, stored.effort) if stored else ({}, config.steps or 0)
  refusal = ""
  if not effort:
    costs, effort, refusal = _from_budget(config, possible, workers, steps, seeds)
  if refusal and not config.dry_run:
    raise UserError(refusal)
  shortest = rungs(effort)[0] if len(rates) > 1 else effort
  expected = _expected(possible, costs, steps, seeds)(effort)
  cells = {cell.name: cell for cell in (stored.cells if stored else ())}
  for draft in found:
    if draft.cell.name not in cells or (stored and seeds > stored.seeds):
      cell = draft.of_effort(effort, shortest, seed=config.seed, seeds=seeds)
      seconds = 0.0 if cell.reason else expected[cell.name]
      cells[cell.name] = cell._replace(seconds=seconds)
  if all(cell.reason for cell in cells.values()):
    reason = next(iter(cells.values())).reason
    raise UserError(f"no contender can be trained: {reason}")
  plan = Plan(
    options=json.loads(json.dumps(config.saved())),  # as it is read again
    cells=tuple(cells.values()),
    effort=effort,
    rates=rates,
    extends=extends,
    seed=config.seed,
    seeds=seeds,
    measure=config.measure or (*measures, "loss")[0],
    score=cast(Score, config.score),
    workers=workers,
    lanes=len(rates) if jax.default_backend() != "cpu" else 1,
    costs=costs,
    rungs=rungs(effort),
    about=_about(found, stored.about if stored else ()),
    refusal=refusal,
  )
  same = stored and (plan.cells, plan.seeds) == (stored.cells, stored.seeds)
  return stored if stored and same else plan


def _about(found: list[Draft], stored: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
  """Returns the rows of a run's start table that hold for all contenders, also ``stored`` ones."""
  settings = {one.cell.setting: (one.config, one.task) for one in found if one.task}
  tables = [start_table.data_rows(*setting) for setting in settings.values()]
  tables += [list(stored)] if stored else []
  return tuple(row for row in tables[0] if all(row in table for table in tables))


def _from_budget(
  config: StudyConfig, possible: list[Draft], workers: int, steps: Callable[[int], int], seeds: int
) -> tuple[dict[str, Cost], int, str]:
  """Returns the measured times by algorithm and local steps, the effort for the budget, and why it
  is refused, if it is.

  In the smallest effort, a final run has twice as many rounds as the shortest run.
  """
  started = time.perf_counter()
  kinds = {draft.key: draft for draft in reversed(possible)}  # the first norm of each
  costs = {
    key: probe.measure(draft.config, draft.task, draft.rounds) for key, draft in kinds.items()
  }

  start = max(cost.start for cost in costs.values())  # later contenders share what it compiled
  costs = {key: cost._replace(start=start) for key, cost in costs.items()}
  seconds = _expected(possible, costs, steps, seeds)
  least = max(budget.LEAST_EFFORT, *(2 * draft.least_steps for draft in possible))
  spent = time.perf_counter() - started
  effort, refusal = budget.effort_of(
    duration(config.budget or BUDGET),
    least,
    lambda effort: budget.makespan(seconds(effort).values(), workers),
    spent,
  )
  return costs, effort, refusal


def _expected(
  possible: list[Draft], costs: dict[str, Cost], steps: Callable[[int], int], seeds: int
) -> Callable[[int], dict[str, float]]:
  """Returns the function effort -> name of a contender -> expected time.

  An algorithm that was not measured costs as much as the mean of the others. ``steps`` is the
  function effort -> local steps of a contender.
  """
  known = np.mean(list(costs.values()), 0) if costs else budget.GUESS
  other = Cost(*map(float, known))
  firsts = {draft.config.norm: draft.cell.name for draft in reversed(possible)}

  def seconds(effort: int) -> dict[str, float]:
    return {
      draft.cell.name: costs.get(draft.key, other).cell(
        effort, steps(effort), seeds, draft.phases, firsts[draft.config.norm] == draft.cell.name
      )
      for draft in possible
    }

  return seconds


def _workers() -> int:
  """Returns the number of processes that train side by side by default."""
  return len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 1


def _devices(config: StudyConfig, workers: int) -> int:
  """Returns the number of CPU devices of each process."""
  return config.host_devices or max(1, len(os.sched_getaffinity(0)) // workers)


def _absolute(config: StudyConfig) -> StudyConfig:
  """Returns the options with absolute paths, so that commands work from every folder."""
  kind, colon, path = config.data.partition(":")
  changes: dict[str, Any] = {}
  if colon and Path(path).expanduser().exists():
    changes["data"] = f"{kind}:{Path(path).expanduser().absolute()}"
  for name in ("data_dir", "network", "pairs"):
    value = getattr(config, name)
    if value and Path(value).expanduser().exists():
      changes[name] = str(Path(value).expanduser().absolute())
  return dataclasses.replace(config, **changes)


def _check_validation(config: StudyConfig, draft: Draft, rates: tuple[float, ...]) -> None:
  if len(rates) > 1 and not draft.config.validation_share:
    raise UserError(
      "learning rates are chosen on validation examples, and there are none; give a single rate "
      "with --lrs."
    )
