"""Reads and checks what a study has saved of a contender's runs.

If files are damaged, or a run was continued beyond the plan, the error says which folder to delete.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from fedjax_norm.errors import DivergedError, LostError, UserError
from fedjax_norm.study.contender import SeedRun
from fedjax_norm.training.storage.run_folder import CONFIG, SUMMARY, read_config
from fedjax_norm.training.storage.saved_run import read_run, read_seeds, seed_folders


class SavedFilesError(UserError):
  """A run cannot be used as it was saved; its folder has to be deleted, so that it starts anew."""


def seed_runs(folder: Path) -> tuple[SeedRun, ...]:
  """Returns the runs in the folder of a finished run with one seed or several.

  Raises:
    UserError: the folder holds no finished run, or a file is damaged.
  """
  return tuple(
    SeedRun(run.config["seed"], path, run.rows, run.summary, run.evaluation, run.best_evaluation)
    for path, run in read_seeds(folder)
  )


def read_final_runs(folder: Path, rounds: int | None) -> tuple[SeedRun, ...]:
  """Returns the final runs of a finished contender.

  Args:
    folder: folder of the runs.
    rounds: the rounds that the study's plan has for each of them; None if it leaves them open.

  Raises:
    UserError: a run is missing or damaged, or has other rounds.
  """
  check_final_runs(folder, rounds)
  with saved_files(folder):
    found = [(folder / CONFIG).is_file() and (path / SUMMARY).is_file() for path in _seeds(folder)]
    if not all(found):
      raise UserError(
        f"{sum(found)} of {len(found)} runs are there; start the same command of the study again, "
        "which trains what is missing."
      )
    return seed_runs(folder)


def check_final_runs(folder: Path, rounds: int | None) -> None:
  """Raises a SavedFilesError if a final run cannot be used; it may be unfinished or missing.

  The arguments are those of :func:`read_final_runs`.
  """
  for path in dict.fromkeys([folder, *sorted(folder.glob("seed_*"))]):
    if not (path / CONFIG).is_file():
      continue
    with saved_files(folder):
      done = read_config(path).get("rounds")
      if rounds is not None and done != rounds:
        raise UserError(
          f"the run in {path} has {done} rounds, but those of the study have {rounds}; delete it."
        )
      if (path / SUMMARY).is_file() and _seeds(path) == [path]:
        read_run(path)


@contextlib.contextmanager
def saved_files(folder: Path) -> Iterator[None]:
  """Makes errors about the files of a run say which folder to delete.

  Args:
    folder: folder of the run; each of several seeds has a folder of its own in it.

  Raises:
    SavedFilesError: the block raised a UserError that names the folder or a file in it.
  """
  try:
    yield
  except (DivergedError, LostError, SavedFilesError):
    raise
  except UserError as error:
    what = " ".join(str(error).split())
    # The folder of the run or of a seed, whichever the sentence names.
    named = re.search(rf"{re.escape(str(folder))}(/seed_\d+)?(?![\w.-])", what)
    if not named:
      raise
    path = f"{folder}{named[1] or ''}"
    raise SavedFilesError(
      f"{what.rpartition(';')[0] or what.removesuffix('.')}; delete the folder {path}, and the "
      "same command trains it again."
    ) from error


def _seeds(folder: Path) -> list[Path]:
  return seed_folders(folder) if (folder / CONFIG).is_file() else [folder]
