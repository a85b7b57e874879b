"""Trains a contender: the search for its learning rate, then the final runs of all seeds."""

import contextlib
import dataclasses
import io
import math
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedjax_norm.cli import command_line, train
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.study.contender import State, Trial, Tuning
from fedjax_norm.study.planning import tuning
from fedjax_norm.study.planning.plan import SOURCES, Cell, Plan
from fedjax_norm.study.results.final_runs import SavedFilesError, check_final_runs, saved_files
from fedjax_norm.training import lanes, loop
from fedjax_norm.training.finished_run import has_single_model
from fedjax_norm.training.reuse import Programs
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.atomic_files import (
  make_folder,
  read_json,
  write_atomic,
  write_json,
)
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.storage.final_model import BEST_MODEL
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task

_TRIAL = "trial.json"

Progress = Callable[[float], None]
"""Receives the share of a contender's work that is done, from 0 to 1."""


def train_cell(plan: Plan, cell: Cell, folder: Path, progress: Progress = lambda _: None) -> None:
  """Trains a contender and writes its outcome, ``cells/NAME.json``; what is done is read.

  All runs share one compiled program, unless the method or the norm needs another one for other
  seeds or lengths.

  Args:
    plan: the plan of the study.
    cell: the contender.
    folder: folder of the study.
    progress: is called after each evaluation; an exception of it ends the work, and the same call
      goes on later.
  """
  if cell.reason:
    _write(plan, cell, folder, "impossible", cell.reason)
    return
  plan = plan.of(cell)
  started, work = time.perf_counter(), _Work(plan, cell, folder, progress)
  state: State = "done"
  reason = None
  try:
    work.search()
    work.train()
  except DivergedError as error:
    state, reason = "diverged", _cause(str(error))
  except OSError:  # such as a full disk: the study stops, and its command goes on later
    raise
  except Exception as error:  # one contender must not end the study
    wrong = isinstance(error, UserError) and not isinstance(error, SavedFilesError)
    impossible = wrong and not work.programs.built
    state, reason = "impossible" if impossible else "failed", _sentence(error)
    if not isinstance(error, UserError):
      log = folder / "logs" / f"{cell.name}.txt"
      make_folder(log.parent)
      write_atomic(log, traceback.format_exc().encode())
      reason = f"{reason}; see {log}."
  _write(plan, cell, folder, state, reason, work, time.perf_counter() - started)


def write_failure(plan: Plan, cell: Cell, folder: Path, reason: str) -> None:
  """Writes the outcome of a contender that was not trained, for a reason of one sentence."""
  _write(plan, cell, folder, "failed", reason)


class _Work:
  """The runs of a contender, and how much of them is done.

  Attributes:
    programs: the compiled program that the runs share.
    tuning: how the learning rate was chosen; None before, or if it is given.
    lr: the learning rate of the final runs; None for that of the contender's own options.
  """

  def __init__(self, plan: Plan, cell: Cell, folder: Path, progress: Progress) -> None:
    self._plan, self._cell, self._folder, self._progress = plan, cell, folder, progress
    self.programs = Programs(train.make)
    self.tuning: Tuning | None = None
    self.lr = plan.rates[0] if plan.rates else None
    self._total, self._done = plan.total_steps, 0
    self._examples: int | None = None  # validation examples

  def config(self, lr: float | None, rounds: int | None, **more: Any) -> Any:
    """Returns the options of a run; None leaves the contender's own option."""
    more |= {"lr": lr, "rounds": rounds, "eval_every": self._cell.eval_every, "progress": False}
    return self._cell.config(**{name: value for name, value in more.items() if value is not None})

  def final_config(self) -> Any:
    """Returns the options of the final runs."""
    return self.config(self.lr, self._cell.rounds, seed=self._plan.seed, seeds=self._plan.seeds)

  def search(self) -> None:
    """Chooses the learning rate.

    Raises:
      DivergedError: training diverged at every rate.
    """
    if len(self._plan.rates) <= 1:
      return
    trials: list[Trial] = []
    while isinstance(step := tuning.next_trials(trials, self._plan.search), list):
      trials += self.run_trials(step)
    self.tuning, self.lr = step, step.lr
    self._done = self._total - self._plan.seeds * self._plan.effort  # the reserve may be left
    if all(trial.value is None for trial in trials):
      rates = sorted(trial.lr for trial in trials)
      raise DivergedError(
        f"training diverged at every learning rate from {rates[0]:g} to {rates[-1]:g}."
      )

  def run_trials(self, step: Sequence[tuple[float, int]]) -> list[Trial]:
    """Returns the results of runs with some (learning rate, local steps); finished ones are read.

    Groups of ``plan.lanes`` rates train side by side where the program allows it.
    """
    missing = [one for one in step if not (self._trial_folder(*one) / _TRIAL).exists()]
    if len(missing) >= self._plan.lanes > 1:
      self._side_by_side(missing)
    return [self._trial(lr, steps) for lr, steps in step]

  def _side_by_side(self, step: Sequence[tuple[float, int]]) -> None:
    """Trains rates for equally many steps in full lane groups, and leaves out what remains."""
    prepared = [self._prepare(lr, steps) for lr, steps in step]
    (config, task), configs = prepared[0], [config for config, _ in prepared]
    program = self.programs.of(task, config)
    if lanes.can_share(program, config):
      return
    size = min(self._plan.lanes, lanes.fitting_lanes(task, program, config))
    variables = initial_variables(task, config.seed)
    for first in range(0, len(step) - size + 1, size) if size > 1 else ():
      group = configs[first : first + size]
      tell = self._reporter(size * step[0][1], config.rounds)
      found = lanes.train_lanes(program, group, task.data, variables, tell)
      for (lr, steps), one, lane in zip(step[first:], group, found, strict=False):
        path = self._trial_folder(lr, steps)
        with saved_files(path), RunFolder.open(path, one.saved(), wait=True) as run:
          _write_rows(run, lane.rows)
          self._end_trial(lr, steps, lane.rows, lane.reason)

  def _prepare(self, lr: float, steps: int) -> tuple[Any, Task]:
    """Returns the options of a trial with all defaults filled in, and its task."""
    rounds = self._plan.rounds(self._cell, steps)
    config = self.config(lr, rounds, seed=self._plan.seed)
    config, task = train.prepare(config, SOURCES.of(config))
    self._examples = len(task.validation.labels) if task.validation else None
    return config, task

  def _trial_folder(self, lr: float, steps: int) -> Path:
    return self._folder / "tuning" / self._cell.name / f"{lr:g}_{steps}"

  def _trial(self, lr: float, steps: int) -> Trial:
    path = self._trial_folder(lr, steps)
    if not (path / _TRIAL).exists():
      config, task = self._prepare(lr, steps)
      program, variables = self.programs.of(task, config), initial_variables(task, config.seed)
      rows, reason = [], None
      short = self._plan.is_short(self._cell, steps)
      with saved_files(path), RunFolder.open(path, config.saved(), wait=True) as run:
        saves = None if short else run
        try:
          tell = self._reporter(steps, config.rounds)
          rows = loop.train(program, config, task.data, variables, saves, on_evaluation=tell).rows
        except DivergedError as error:
          reason = str(error)
        if short:
          _write_rows(run, rows)
        self._end_trial(lr, steps, rows, reason)
    self._done += steps
    with saved_files(path):
      return _read_trial(path / _TRIAL)

  def _end_trial(self, lr: float, steps: int, rows: list[Row], reason: str | None) -> None:
    """Writes the result of a trial, and deletes its models, which nothing needs any more."""
    path = self._trial_folder(lr, steps)
    write_json(path / _TRIAL, self._score(lr, steps, rows, reason)._asdict())
    shutil.rmtree(path / "checkpoints", ignore_errors=True)
    (path / BEST_MODEL).unlink(missing_ok=True)

  def _score(self, lr: float, steps: int, rows: list[Row], reason: str | None) -> Trial:
    """Returns the result of a trial; a score that is not a number is no value."""
    if reason:
      return Trial(lr, steps, None, _cause(reason))
    plan, last = self._plan, self._cell.config().average_last
    if f"val_{plan.measure}" not in rows[-1]:
      known = ", ".join(name[4:] for name in rows[-1] if name.startswith("val_"))
      raise UserError(f"--measure={plan.measure} is not measured here; choose one of {known}.")
    value = tuning.score_of(rows, plan.measure, plan.score, last)
    if math.isfinite(value):
      return Trial(lr, steps, value, examples=self._examples)
    return Trial(lr, steps, None, f"val_{plan.measure} was not a number.")

  def train(self) -> None:
    """Trains the final runs."""
    path, config = self._folder / "runs" / self._cell.name, self.final_config()

    def ended(_: int) -> None:
      self._done += self._plan.effort

    make_folder(path.parent)
    # A process whose lease was taken over keeps the folder until its next evaluation.
    config = dataclasses.replace(config, wait_for_workdir=True)
    check_final_runs(path, self._cell.rounds)
    with saved_files(path), contextlib.redirect_stdout(io.StringIO()):
      source = SOURCES.of(config)
      prepared = train.prepare(config, source)
      tell = self._reporter(self._plan.effort, prepared[0].rounds)
      train.run_seeds(config, source, prepared, path, self.programs, tell, ended)

  def _reporter(self, steps: int, rounds: int) -> Callable[..., None]:
    """Returns the function (rounds done, ...) by which runs report their progress."""

    def tell(round: int, *_: Any) -> None:
      self._progress(min(1.0, (self._done + steps * round / rounds) / self._total))

    return tell


def _read_trial(file: Path) -> Trial:
  try:
    return Trial(**read_json(file))
  except TypeError as error:
    raise UserError(f"{file} is damaged: it is no result of a run; restore the file.") from error


def _write(
  plan: Plan,
  cell: Cell,
  folder: Path,
  state: State,
  reason: str | None,
  work: _Work | None = None,
  seconds: float = 0.0,
) -> None:
  """Writes the outcome of a contender."""
  found = work.tuning if work else None
  search = found and {**found._asdict(), "trials": [trial._asdict() for trial in found.trials]}
  make_folder(folder / "cells")
  content = {
    "name": cell.label,
    "setting": cell.setting,
    "options": cell.options,
    "state": state,
    "reason": reason,
    "seeds": plan.seeds,
    "command": command_line.pinning() + command_line.of_run(work.final_config()) if work else "",
    "single_model": not work or _single_model(work.final_config()),
    "tuning": search,
    "seconds": seconds,
  }
  write_json(folder / "cells" / f"{cell.name}.json", content)


def _single_model(config: Any) -> bool:
  """Returns whether the method yields one model for all clients."""
  return has_single_model(config.saved(), config.make_norm(config.rounds or 1))


def _write_rows(run: RunFolder, rows: list[Row]) -> None:
  """Writes all rows of a run that saved nothing while it was trained."""
  run.drop_rows_after(0)  # of a process that was killed
  for row in rows:
    run.append(row)


def _cause(message: str) -> str:
  """Returns why training diverged, without the advice to a user of a single run."""
  return message.partition(";")[0].removesuffix(".") + "."


def _sentence(error: Exception) -> str:
  """Returns what went wrong, as one sentence."""
  if isinstance(error, UserError):
    return " ".join(str(error).split())
  first, *_ = str(error).strip().splitlines() or ["no reason"]
  return f"{type(error).__name__}: {first.removesuffix('.')}"
