"""Compares finished runs: ``python -m experiments.compare runs/a runs/b``.

Prints a ranked table and what follows from it, and writes the report: one HTML page that opens
without a network, its pictures as PNG files, and all figures as CSV and JSON. Runs are named by the
options in which they differ; a run with several seeds (``--seeds``) is shown by means and standard
deviations. The folder of a study (``experiments.study``) gives its answer. Nothing is written to
the compared runs.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from fedjax_norm.cli import app
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.study import answer
from fedjax_norm.study.advice.recommendation import recommend
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion, Score
from fedjax_norm.study.report import page
from fedjax_norm.study.results import study_files


@dataclasses.dataclass(frozen=True)
class CompareFlags(Options):
  """The options of ``experiments.compare``."""

  output: str | None = option(
    None,
    "Folder for the report, the pictures and the tables; it is new, empty or that of an earlier "
    "comparison. By default a new folder compare in the working directory.",
  )
  measure: str | None = option(
    None,
    "Test measure by which runs are ranked, such as top1 or balanced_accuracy; by default the "
    "first one of their task.",
  )
  score: str | None = option(
    None,
    "How a run's values become its score: the test value at the round with the best validation "
    "value (best), the last value (last), or the mean of the last values (mean). By default best "
    "if all runs have validation examples, else last.",
    choices=get_args(Score),
  )
  target: float | None = option(
    None,
    "Value of the measure, such as 0.9, up to which bytes, rounds and simulated time are counted; "
    "by default slightly worse than the best run with the first run's algorithm.",
  )
  title: str | None = option(None, "Title of the report.")


def compare(config: CompareFlags, *paths: str) -> str:
  """Writes the report and returns the answer: the ranked table and the recommendation in words.

  Args:
    config: the options.
    paths: folders of at least two finished runs, or of one study; nothing is written to them.

  Raises:
    UserError: the folders hold no such runs, or an option does not fit them.
  """
  folder = _folder(config.output)
  found = _of_study(config, paths[0]) if _is_study(paths) else _of_runs(config, paths)
  criterion = found.recommendation.criterion
  target = criterion.target
  if target is not None and criterion.form.best_is_one and not 0 < target <= 1:
    raise UserError(f"--target is {target}; give an accuracy above 0 and up to 1, such as 0.9.")
  for path in paths:
    if folder.resolve().is_relative_to(Path(path).expanduser().resolve()):
      raise UserError(f"the report would be written into {path}; pass another --output.")
  folder.mkdir(parents=True, exist_ok=True)
  return answer.write_to(folder, found._replace(title=config.title or found.title))


def _is_study(paths: tuple[str, ...]) -> bool:
  """Returns whether ``paths`` is one study; several paths have to be runs."""
  studies = [path for path in paths if study_files.is_study(Path(path).expanduser())]
  if studies and len(paths) > 1:
    raise UserError(f"{studies[0]} holds a study; name it alone, or the folders in its runs/.")
  return bool(studies)


def _of_study(config: CompareFlags, path: str) -> answer.Material:
  """Reads a study, ranked as its options say unless --measure or --score are given."""
  found = answer.read(Path(path).expanduser(), config.target)
  finished = [one for one in found.contenders if one.runs]
  if not finished or not (config.measure or config.score):
    return found
  own = found.recommendation.criterion
  criterion = _criterion(config, finished, own)
  return found._replace(recommendation=recommend(found.contenders, criterion, Path(path)))


def _of_runs(config: CompareFlags, paths: tuple[str, ...]) -> answer.Material:
  if len(paths) < 2:
    raise UserError("name the folders of at least two runs to compare, or that of a study.")
  contenders = study_files.read_runs([Path(path).expanduser() for path in paths])
  criterion = _criterion(config, contenders)
  recommendation = recommend(contenders, criterion)
  paths_by_name = zip(page.full_names(contenders), map(str, paths), strict=True)
  return answer.Material(
    contenders, recommendation, f"Comparison of {len(contenders)} runs", dict(paths_by_name)
  )


def _criterion(
  config: CompareFlags, contenders: Sequence[Contender], own: Criterion | None = None
) -> Criterion:
  """Returns by what contenders are ranked: the options, then ``own``, then their task's default."""
  measure = config.measure or (own.measure if own else None)
  score = config.score or (own.score if own else None)
  criterion = study_files.runs_criterion(
    contenders, measure, cast(Score | None, score), config.target
  )
  return criterion._replace(baseline=own.baseline) if own else criterion


def _folder(output: str | None) -> Path:
  """Returns the folder of the report.

  Raises:
    UserError: ``output`` is a picture, or a folder with other files than an earlier comparison's.
  """
  if output is None:
    return app.unused(Path("compare"))
  folder = Path(output).expanduser()
  if folder.suffix == ".png":
    raise UserError(f"--output={output} has to be a folder, which gets all pictures; drop .png.")
  names = set(os.listdir(folder)) if folder.is_dir() else set()
  earlier = {page.REPORT, "results.csv", "results.json"} <= names
  if names and (not earlier or names & {"config.json", "study.json"}):
    raise UserError(f"{folder} contains other files; pass a new folder as --output.")
  return folder


def main(config: CompareFlags, *paths: str) -> None:
  """Prints the answer for the runs, or the study, in the folders ``paths``."""
  print(compare(config, *paths))


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run_plain(main, CompareFlags, __doc__, positional=True)
