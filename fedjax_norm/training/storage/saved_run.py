"""Reads the files of a finished run without writing to its folder."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.measures import measures_of
from fedjax_norm.training.storage.atomic_files import read_json
from fedjax_norm.training.storage.csv_rows import Row, read_rows
from fedjax_norm.training.storage.run_folder import (
  BEST_EVALUATION,
  CONFIG,
  EVALUATION,
  METRICS,
  SUMMARY,
  read_config,
)

# What every run has in metrics.csv and in summary.json, besides its test measures.
_NUMBERS = ("loss", "bytes_up", "bytes_down", "round_trips", "seconds")


class SavedRun(NamedTuple):
  """The files of a finished run with one seed.

  Attributes:
    config: flag name -> value, of ``config.json``.
    rows: rows of ``metrics.csv``, at least one.
    summary: content of ``summary.json``.
    evaluation: content of ``evaluation.json``; None if the run has no such file.
    best_evaluation: content of ``evaluation_best.json``; None if the run has no such file.
  """

  config: dict[str, Any]
  rows: list[Row]
  summary: dict[str, Any]
  evaluation: dict[str, Any] | None
  best_evaluation: dict[str, Any] | None = None


def seed_folders(path: Path) -> list[Path]:
  """Returns the folder of each seed of a run, in order; ``[path]`` for a run with one seed.

  Raises:
    UserError: the folder contains no run, or its ``config.json`` is damaged.
  """
  config = read_config(path)
  if not config.get("seeds"):
    return [path]
  first, count = config.get("seed"), config["seeds"]
  if type(first) is not int or type(count) is not int:
    raise UserError(
      f"{path / CONFIG} is damaged: its seed or seeds is no integer; restore the file or pass "
      "another folder."
    )
  return [path / f"seed_{seed}" for seed in range(first, first + count)]


def check_ended(path: Path) -> None:
  """Raises a UserError if a run that continues with more rounds has not reached the last one.

  Until then, ``config.json`` has the new number of rounds, and the results and the model in the
  folder ``path`` of one seed are those of the shorter run.
  """
  if not (path / SUMMARY).is_file():
    return
  rounds, done = (one.get("rounds") for one in (read_config(path), read_json(path / SUMMARY)))
  if None not in (rounds, done) and rounds != done:
    raise UserError(
      f"the run in {path} continues to round {rounds}, but its results are those of round {done}; "
      "run it to its end."
    )


def read_seeds(path: Path) -> list[tuple[Path, SavedRun]]:
  """Reads a finished run with one seed or several; returns the folder and the run of each seed.

  Raises:
    UserError: not all seeds have ended, or :func:`read_run` raises.
  """
  if (folders := seed_folders(path)) == [path]:
    return [(path, read_run(path))]
  unfinished = UserError(f"not all seeds of the run in {path} have ended; run it to its end.")
  if not all((file / SUMMARY).is_file() for file in (path, *folders)):
    raise unfinished
  runs = [(folder, read_run(folder)) for folder in folders]
  # With more rounds or seeds, first this folder gets a new config.json, then each seed its results,
  # and last this folder its summary.json.
  rounds, summary = [run.summary["rounds"] for _, run in runs], read_json(path / SUMMARY)
  results = summary.get("seeds"), summary.get("rounds")
  if results != (len(runs), np.mean(rounds)) or read_config(path).get("rounds") != rounds[0]:
    raise unfinished
  return runs


def read_run(path: Path) -> SavedRun:
  """Reads the folder of a finished run with one seed, which may be read-only.

  Raises:
    UserError: the folder contains no finished run, or one with several seeds; or a file is damaged
      or lacks a column.
  """
  config = read_config(path)
  if (folders := seed_folders(path)) != [path]:
    raise UserError(
      f"the run in {path} has several seeds; pass the folder of one seed, such as {folders[0]}."
    )
  for name in (METRICS, SUMMARY):
    if not (path / name).is_file():
      raise UserError(f"the run in {path} has no {name}, so it is not finished; run it to its end.")
  check_ended(path)
  rows, summary = read_rows(path / METRICS)[0], read_json(path / SUMMARY)
  measures = measures_of(summary)
  _check_numbers(path / SUMMARY, summary, ("rounds", *_NUMBERS, *measures))
  for row in rows:
    _check_numbers(path / METRICS, row, (*_NUMBERS, *measures))
  if not rows or rows[-1]["round"] < summary["rounds"]:
    raise UserError(
      f"{path / METRICS} is damaged: it ends before round {summary['rounds']}, the last one of the "
      "run; restore the file or pass another folder."
    )
  evaluations = (_read_evaluation(path / name) for name in (EVALUATION, BEST_EVALUATION))
  return SavedRun(config, rows, summary, *evaluations)


def _read_evaluation(file: Path) -> dict[str, Any] | None:
  evaluation = read_json(file) if file.exists() else None
  if evaluation is not None and not all(
    isinstance(evaluation.get(name), list) for name in ("classes", "clients")
  ):
    raise UserError(
      f"{file} is damaged: it has no list of classes or clients; restore the file or pass another "
      "folder."
    )
  return evaluation


def _check_numbers(file: Path, values: dict[str, Any], names: tuple[str, ...]) -> None:
  """Raises UserError if one of the names has no number in ``values``, which is from ``file``."""
  for name in names:
    if type(values.get(name)) not in (int, float):
      raise UserError(
        f"{file} is damaged: it has no number for {name}; restore the file or pass another folder."
      )
