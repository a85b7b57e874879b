"""Reads the contenders of a study, or finished runs as contenders, and writes their results."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.measures import MEASURES, headline, measures_of
from fedjax_norm.study.advice.recommendation import Recommendation, as_json
from fedjax_norm.study.contender import Contender, State, Trial, Tuning
from fedjax_norm.study.planning.plan import PLAN, Cell, read_plan
from fedjax_norm.study.ranking import Criterion, Score
from fedjax_norm.study.results import naming
from fedjax_norm.study.results.final_runs import read_final_runs, seed_runs
from fedjax_norm.study.results.rows import as_rows, as_text, classes_text, clients_text
from fedjax_norm.training.storage.atomic_files import read_json, write_atomic, write_json
from fedjax_norm.training.storage.run_folder import read_config, read_made_by


def read_study(folder: Path) -> list[Contender]:
  """Returns the contenders of a study; those without an outcome yet are pending.

  A contender with damaged files, or with runs that were continued beyond the plan, has failed.

  Raises:
    UserError: the folder holds no study, or its plan is damaged.
  """
  plan = read_plan(folder)
  return [read_contender(folder, cell, plan.seeds) for cell in plan.cells]


def study_criterion(folder: Path, target: float | None = None) -> Criterion:
  """Returns by what a study ranks its contenders; its first algorithm is the baseline.

  Raises:
    UserError: the folder holds no study, or its plan is damaged.
  """
  plan = read_plan(folder)
  if "algorithm" not in plan.cells[0].options:
    raise UserError(
      f"{folder} holds runs of the papers' tables, which differ in more than a study's; name the "
      "folders in its runs/ that you want to compare."
    )
  return Criterion(plan.measure, plan.score, target, plan.cells[0].options["algorithm"])


def titled(criterion: Criterion, contenders: Sequence[Contender]) -> Criterion:
  """Returns a criterion with the title that its measure has in the task of the contenders."""
  summaries = (run.summary for one in contenders for run in one.runs)
  measure = next((measures_of(one).get(criterion.measure) for one in summaries), None)
  return criterion._replace(title=measure.title if measure else None)


def is_study(folder: Path) -> bool:
  """Returns whether a folder holds a study."""
  return (folder / PLAN).is_file()


def read_runs(paths: Sequence[str | Path]) -> list[Contender]:
  """Returns finished runs, with one seed or several, as contenders.

  They are named by the options in which they differ, and are in the same setting if they have the
  same data and partition. Runs in the folder of a study know how it chose their learning rates.

  Raises:
    UserError: a folder holds no finished run, a file is damaged, or two runs have the same options.
  """
  folders = [Path(path) for path in paths]
  runs = [seed_runs(folder) for folder in folders]
  configs = [{**read_config(of[0].path), "seeds": len(of)} for of in runs]
  labels = naming.label(configs)
  contenders = []
  for folder, of, config, label in zip(folders, runs, configs, labels, strict=True):
    contenders.append(
      Contender(
        label.name,
        label.setting,
        label.options,
        of,
        "done",
        tuning=_tuning_of(folder),
        command=_command(folder),
        single_model=naming.single_model(config),
        path=folder,
      )
    )
  return contenders


def runs_criterion(
  contenders: Sequence[Contender],
  measure: str | None = None,
  score: Score | None = None,
  target: float | None = None,
) -> Criterion:
  """Returns by what finished runs are ranked; the algorithm of the first one is the baseline.

  Args:
    contenders: the runs.
    measure: the measure; None for the first measure of their task.
    score: how it is read; None for ``best`` if all runs have validation values, else ``last``.
    target: value of the measure to reach; None to derive it from the baseline.

  Raises:
    UserError: the runs are of different tasks, or lack the measure or the validation values.
  """
  summaries = [run.summary for one in contenders for run in one.runs]
  kinds = {headline(one): measures_of(one) for one in summaries}
  if len(kinds) > 1:
    titles = " and ".join(sorted(of[name].title for name, of in kinds.items()))
    raise UserError(f"these runs have different test measures, {titles}; name runs of one task.")
  first = next(iter(kinds))
  common = [name for name in (*MEASURES, "loss") if all(name in one for one in summaries)]
  if measure is not None and measure not in common:
    raise UserError(
      f"--measure is {measure!r}, which not all of these runs have; choose one of "
      f"{', '.join(common)}."
    )
  validated = all("best_round" in summary for summary in summaries)
  if score == "best" and not validated:
    raise UserError(
      "--score=best needs runs with validation examples (--validation_share), and not all of these "
      "runs have them; pass --score=last or mean."
    )
  reading: Score = score or ("best" if validated else "last")
  baseline = contenders[0].options.get("algorithm")
  return titled(Criterion(measure or first, reading, target, baseline), contenders)


def write(folder: Path, contenders: Sequence[Contender], recommendation: Recommendation) -> None:
  """Writes the numbers of contenders and, in ``results.json``, the recommendation into a folder.

  The tables are ``results.csv``, ``clients.csv`` and ``classes.csv``; the numbers of the latter two
  are of the models that the score is of.

  Raises:
    OSError: a file cannot be written.
  """
  criterion = recommendation.criterion
  rows = as_rows(contenders, criterion)
  write_atomic(folder / "results.csv", as_text(rows).encode())
  write_atomic(folder / "clients.csv", clients_text(contenders, criterion).encode())
  write_atomic(folder / "classes.csv", classes_text(contenders, criterion).encode())
  content = {"contenders": rows, "recommendation": as_json(recommendation)}
  write_json(folder / "results.json", content)


def read_contender(folder: Path, cell: Cell, seeds: int) -> Contender:
  """Returns a contender of a study; it is pending with fewer than ``seeds`` final runs."""
  contender = Contender(cell.label, cell.setting, cell.options, (), "pending")
  file, path = folder / "cells" / f"{cell.name}.json", folder / "runs" / cell.name
  if cell.reason:
    return contender._replace(state="impossible", reason=cell.reason)
  if not file.exists():
    return contender
  try:
    outcome = read_json(file)
    if outcome.get("seeds", seeds) < seeds:  # seeds were added, and their runs may be incomplete
      return contender
    contender = _with_outcome(contender, outcome, file)
    runs = read_final_runs(path, cell.rounds) if contender.state == "done" else ()
  except UserError as error:  # one contender must not prevent the answer about the others
    contender, runs = contender._replace(state="failed", reason=str(error)), ()
  return contender._replace(runs=runs, path=path if path.exists() else None)


def _with_outcome(contender: Contender, outcome: dict[str, Any], file: Path) -> Contender:
  """Returns a contender with its outcome, the content of ``file``."""
  try:
    tuning = outcome["tuning"]
    if tuning is not None:
      trials = tuple(Trial(**trial) for trial in tuning["trials"])
      tuning = Tuning(**{**tuning, "trials": trials})
    if outcome["state"] not in get_args(State):
      raise KeyError(outcome["state"])
    return contender._replace(
      state=outcome["state"],
      reason=outcome["reason"],
      tuning=tuning,
      command=outcome["command"],
      single_model=outcome["single_model"],
    )
  except (KeyError, TypeError) as error:
    raise UserError(
      f"{file} is damaged: it is no outcome of a contender; delete it, and the study makes it anew."
    ) from error


def _tuning_of(folder: Path) -> Tuning | None:
  """Returns how a study chose the learning rate of a run in its folder; None for other runs."""
  whole = folder.absolute()
  for path in (whole, whole.parent):  # the run may be one of a contender's seeds
    file = path.parent.parent / "cells" / f"{path.name}.json"
    if path.parent.name == "runs" and file.is_file():
      contender = Contender("", "", {}, (), "pending")
      with contextlib.suppress(UserError):  # the run itself is not damaged
        return _with_outcome(contender, read_json(file), file).tuning
  return None


def _command(folder: Path) -> str:
  return "".join(entry.get("command", "") for entry in read_made_by(folder)[:1])
