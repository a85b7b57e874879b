"""Trains a contender: the search for its learning rate, then the final runs of all seeds."""

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedjax_norm.cli import command_line, train
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.study import tuning
from fedjax_norm.study.contender import State, Trial, Tuning
from fedjax_norm.study.plan import SOURCES, Cell, Plan
from fedjax_norm.training import loop
from fedjax_norm.training.reuse import Programs
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.atomic_files import make_folder, read_json, write_json
from fedjax_norm.training.storage.run_folder import RunFolder

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
  started, work = time.perf_counter(), _Work(plan, cell, folder, progress)
  state: State = "done"
  reason = None
  try:
    work.search()
    work.train()
  except DivergedError as error:
    state, reason = "diverged", _cause(error)
  except OSError:  # such as a full disk: the study stops, and its command goes on later
    raise
  except Exception as error:  # one contender must not end the study
    impossible = isinstance(error, UserError) and not work.programs.built
    state, reason = "impossible" if impossible else "failed", _sentence(error)
  _write(plan, cell, folder, state, reason, work, time.perf_counter() - started)


def write_failure(plan: Plan, cell: Cell, folder: Path, reason: str) -> None:
  """Writes the outcome of a contender that was not trained, for a reason of one sentence."""
  _write(plan, cell, folder, "failed", reason)


class _Work:
  """The runs of a contender, and how much of them is done.

  Attributes:
    programs: the compiled program that the runs share.
    tuning: how the learning rate was chosen; None before, or if it is given.
    lr: the learning rate of the final runs.
  """

  def __init__(self, plan: Plan, cell: Cell, folder: Path, progress: Progress) -> None:
    self._plan, self._cell, self._folder, self._progress = plan, cell, folder, progress
    self.programs = Programs(train.make)
    self.tuning: Tuning | None = None
    self.lr = plan.rates[0]
    efforts = tuning.efforts(len(plan.rates), plan.extends, plan.seeds)
    self._total, self._done = efforts * plan.effort, 0.0

  def config(self, lr: float, rounds: int, **more: Any) -> Any:
    """Returns the options of a run."""
    more |= {"eval_every": self._cell.eval_every, "progress": False}
    return self._cell.config(lr=lr, rounds=rounds, **more)

  def final_config(self) -> Any:
    """Returns the options of the final runs."""
    return self.config(self.lr, self._cell.rounds, seed=self._plan.seed, seeds=self._plan.seeds)

  def search(self) -> None:
    """Chooses the learning rate.

    Raises:
      DivergedError: training diverged at every rate.
    """
    if len(self._plan.rates) == 1:
      return
    trials: list[Trial] = []
    while isinstance(step := tuning.next_trials(trials, self._plan.search), list):
      trials += self.run_trials(step)
    self.tuning, self.lr = step, step.lr
    self._done = self._total - self._plan.seeds * self._plan.effort  # the reserve may be left
    if all(trial.value is None for trial in trials):
      rates = sorted(trial.lr for trial in trials)
      raise DivergedError(
        f"training diverged at every learning rate from {rates[0]:g} to {rates[-1]:g}; "
      )

  def run_trials(self, step: Sequence[tuple[float, int]]) -> list[Trial]:
    """Returns the results of runs with some (learning rate, local steps)."""
    return [self._trial(lr, steps) for lr, steps in step]

  def _trial(self, lr: float, steps: int) -> Trial:
    plan = self._plan
    path = self._folder / "tuning" / self._cell.name / f"{lr:g}_{steps}"
    if (file := path / "trial.json").exists():
      self._done += steps
      return Trial(**read_json(file))
    rounds = plan.rounds(self._cell, steps)
    config = self.config(lr, rounds, seed=plan.seed, wandb=False)
    config, task = train.prepare(config, SOURCES.of(config))
    program, variables = self.programs.of(task, config), initial_variables(task, config.seed)
    trial = Trial(lr, steps, None)
    with RunFolder.open(path, config.saved(), wait=True) as run:
      try:
        report = self._reporter(steps, rounds)
        rows = loop.train(program, config, task.data, variables, run, on_evaluation=report).rows
        value = tuning.score_of(rows, plan.measure, plan.score, config.average_last)
        trial = trial._replace(value=value)
      except DivergedError as error:
        trial = trial._replace(reason=_cause(error))
      write_json(file, trial._asdict())
    self._done += steps
    return trial

  def train(self) -> None:
    """Trains the final runs."""
    path, config = self._folder / "runs" / self._cell.name, self.final_config()
    report = self._reporter(self._plan.effort, self._cell.rounds)

    def ended(_: int) -> None:
      self._done += self._plan.effort

    make_folder(path.parent)
    with contextlib.redirect_stdout(io.StringIO()):
      train.run_seeds(config, SOURCES.of(config), path, self.programs, report, ended)

  def _reporter(self, steps: int, rounds: int) -> loop.Callback:
    """Returns the callback by which a run of this length reports its progress."""

    def report(round: int, *_: Any) -> None:
      self._progress(min(1.0, (self._done + steps * round / rounds) / self._total))

    return report


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
    "command": command_line.of_run(work.final_config()) if work else "",
    "single_model": not work or _single_model(work.final_config()),
    "tuning": search,
    "seconds": seconds,
  }
  write_json(folder / "cells" / f"{cell.name}.json", content)


def _single_model(config: Any) -> bool:
  """Returns whether the method yields one model for all clients."""
  spec = config.make_norm(config.rounds)
  local = spec.has_running_statistics and config.statistics_policy(spec) == "local"
  return not (config.keeps_norms or local)


def _cause(error: DivergedError) -> str:
  """Returns why training diverged, without the advice to a user of a single run."""
  return str(error).partition(";")[0] + "."


def _sentence(error: Exception) -> str:
  """Returns what went wrong, as one sentence."""
  text = " ".join(str(error).split())
  return text if isinstance(error, UserError) else f"{type(error).__name__}: {text or 'no reason'}"
