"""Reads and writes the folder of one run."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage import atomic_files, provenance, tensorboard
from fedjax_norm.training.storage.csv_rows import Row, append_rows, read_rows, scalar, write_rows
from fedjax_norm.training.storage.lock import HOLDER, LOCK, locked
from fedjax_norm.training.storage.same_run import Obstacle, check_same

CONFIG = "config.json"
FORMAT = 4
"""Format number in ``config.json``; a run with another number cannot be resumed.

Increase it with every change of this package after which a resumed run would differ from an
uninterrupted one."""
METRICS = "metrics.csv"
DIAGNOSTICS = "diagnostics.csv"
_DIAGNOSTICS_COLUMNS = ("round", "quantity", "place", "value")
SUMMARY = "summary.json"
EVALUATION = "evaluation.json"
BEST_EVALUATION = "evaluation_best.json"
"""The same for the model of the best round by validation (``--validation_share``)."""

_STUDY = "study.json"  # in the folder of a study
_EVENTS = "tensorboard"
# Files that a run killed before it wrote its config can leave in the folder.
_NO_RUN_YET = {f"{CONFIG}.tmp", LOCK, HOLDER, f"{HOLDER}.tmp"}


def read_config(path: Path) -> dict[str, Any]:
  """Returns flag name -> value from the ``config.json`` in a run's folder.

  Also reads a run of an older version, which cannot be resumed.

  Raises:
    UserError: the folder has no such file, or the file cannot be read or is damaged.
  """
  if not (path / CONFIG).is_file() and (path / _STUDY).is_file():
    raise UserError(
      f"{path} holds a study and no run; pass the folder of one of its runs, which are in "
      f"{path / 'runs'}."
    )
  if not (path / CONFIG).is_file():
    raise UserError(f"{path} holds no run because it has no {CONFIG}; pass a run's folder.")
  config = atomic_files.read_json(path / CONFIG)
  return {name: value for name, value in config.items() if name not in ("format", "made_by")}


def read_made_by(path: Path) -> list[dict[str, str]]:
  """Returns the versions, commits and commands that ran a run, in their order.

  Raises:
    UserError: the folder's ``config.json`` cannot be read or is damaged.
  """
  return atomic_files.read_json(path / CONFIG).get("made_by") or []


class RunFolder:
  """The files of one run; a context manager, made by ``RunFolder.open``.

  The files are ``config.json``, ``metrics.csv``, ``summary.json``, ``tensorboard/``, for
  classification ``evaluation.json`` and, with validation, ``evaluation_best.json``; and, if the run
  records diagnostics, ``diagnostics.csv``. The
  TensorBoard events are derived from ``metrics.csv``. Until the folder is closed, other processes
  can open it only as a ``ReadOnlyFolder``.

  Attributes:
    path: the folder.
    resumed: whether the folder already contained this run when it was opened.
  """

  def __init__(self, path: Path, resumed: bool):
    self.path, self.resumed = path, resumed
    self._metrics = path / METRICS
    self._lock = contextlib.ExitStack()
    self._events: Path | None = None
    rows, incomplete = read_rows(self._metrics)
    if incomplete:
      write_rows(self._metrics, rows)
    self._columns = tuple(rows[0]) if rows else None
    self._last_round = rows[-1]["round"] if rows else None

  @classmethod
  def open(
    cls,
    path: str | os.PathLike,
    config: dict[str, Any],
    resume: bool = True,
    wait: bool = False,
    obstacle: Obstacle | None = None,
  ) -> "RunFolder":
    """Opens the folder of a new run, or of a run to resume.

    Args:
      path: the folder, created with its parents if missing.
      config: flag name -> value of a type that JSON can store (tuples become lists). The file
        ``config.json`` also lists, under ``made_by``, the versions and commands that ran it.
      resume: whether to resume a run with the same config; if False, the folder must contain none.
      wait: whether to wait if another process has the folder open.
      obstacle: decides whether the run may continue with other ``rounds`` than it was started with;
        ``config.json`` then records the new number. None refuses every other number.

    Returns:
      The open folder. An incomplete last line of ``metrics.csv``, left by a kill, is deleted.

    Raises:
      UserError: the folder cannot be created or written to, contains other files or another run,
        contains a run although ``resume`` is False, or is open in another process although
        ``wait`` is False.
    """
    path = Path(path).expanduser().absolute()
    new = json.loads(json.dumps({**config, "format": FORMAT}))
    atomic_files.make_folder(path)
    file = path / CONFIG
    names = set(os.listdir(path))
    if CONFIG not in names and names - _NO_RUN_YET:
      raise UserError(
        f"{path} is no run folder because it contains files but no {CONFIG}; pass an empty or new "
        "--workdir."
      )
    with contextlib.ExitStack() as lock:
      lock.enter_context(locked(path, wait))
      entries, saved = [], {}
      if resumed := file.exists():
        saved = atomic_files.read_json(file)
        check_same(path, saved, new, resume, obstacle, _rounds_done(path) if obstacle else 0)
        entries = saved.pop("made_by", [])
      made_by = provenance.with_this_process(entries)
      if made_by != entries or saved != new:
        content = json.dumps({**new, "made_by": made_by}, indent=2, sort_keys=True) + "\n"
        atomic_files.write_atomic(file, content.encode())
      run = cls(path, resumed)
      run._lock = lock.pop_all()
      return run

  def append(self, row: dict[str, Any]) -> None:
    """Appends an evaluation to ``metrics.csv`` and TensorBoard; waits until it is on the disk.

    Args:
      row: column name -> an int, a float, a str or a zero-dimensional array. ``round`` is an int
        above that of the previous row. Every row has the columns of the first row, in any order.

    Raises:
      UserError: the columns differ from those of the file.
      ValueError: ``round`` is missing, no int or not larger than before; or a str would be read
        back as a number or as several lines.
      TypeError: a value has another type.
    """
    row = {name: scalar(name, value) for name, value in row.items()}
    if not isinstance(row.get("round"), int):
      raise ValueError('A row of metrics needs an integer column "round".')
    if self._last_round is not None and row["round"] <= self._last_round:
      raise ValueError(
        f"Round {row['round']} is not after round {self._last_round}, that of the previous row."
      )
    if self._columns is not None and set(row) != set(self._columns):
      differing = sorted(set(row) ^ set(self._columns))
      raise UserError(
        f"The columns of {self._metrics} and of this run differ in {', '.join(differing)}; restore "
        "the first line of the file or pass another --workdir."
      )
    columns = self._columns or tuple(row)
    append_rows(self._metrics, [row], columns, header=self._columns is None)
    self._columns, self._last_round = columns, row["round"]
    self._write_events([row])

  def rows(self) -> list[Row]:
    """Returns the rows of ``metrics.csv`` in order; floats equal the written ones bit for bit.

    Raises:
      UserError: a complete line is damaged.
    """
    return read_rows(self._metrics)[0]

  def append_diagnostics(self, rows: list[Row]) -> None:
    """Appends an evaluation's rows, made by ``diagnostics_recorder``, to ``diagnostics.csv``."""
    file = self.path / DIAGNOSTICS
    header = not file.exists() or file.stat().st_size == 0
    append_rows(file, rows, _DIAGNOSTICS_COLUMNS, header)

  def diagnostics(self) -> list[Row]:
    """Returns the rows of ``diagnostics.csv``; an empty list if there is no such file."""
    return read_rows(self.path / DIAGNOSTICS)[0]

  def drop_rows_after(self, round: int) -> None:
    """Deletes the metrics and diagnostics of later rounds, because a resumed run repeats them.

    Replaces the TensorBoard events by those of the remaining rows.
    """
    rows = [row for row in self.rows() if row["round"] <= round]
    if self._metrics.exists():
      write_rows(self._metrics, rows)
    file = self.path / DIAGNOSTICS
    if file.exists():
      write_rows(file, [row for row in self.diagnostics() if row["round"] <= round])
    self._columns = tuple(rows[0]) if rows else None
    self._last_round = rows[-1]["round"] if rows else None
    self._events = None
    tensorboard.delete(self.path / _EVENTS)
    if rows:
      self._write_events(rows)

  def write_summary(self, summary: dict[str, Any]) -> None:
    """Replaces ``summary.json`` by a dict of types that JSON can store."""
    atomic_files.write_json(self.path / SUMMARY, summary)

  def read_summary(self) -> dict[str, Any] | None:
    """Returns the content of ``summary.json``; None if the file does not exist yet.

    Raises:
      UserError: the file cannot be read or is damaged.
    """
    file = self.path / SUMMARY
    return atomic_files.read_json(file) if file.exists() else None

  def write_evaluation(self, details: dict[str, Any], best: bool = False) -> None:
    """Replaces ``evaluation.json``, what the last evaluation says of each class and client.

    With ``best``, it replaces ``evaluation_best.json``, that of the best round by validation.
    """
    atomic_files.write_json(self.path / (BEST_EVALUATION if best else EVALUATION), details)

  def read_evaluation(self) -> dict[str, Any]:
    """Returns the content of ``evaluation.json``; an empty dict if the file does not exist.

    Raises:
      UserError: the file cannot be read or is damaged.
    """
    file = self.path / EVALUATION
    return atomic_files.read_json(file) if file.exists() else {}

  def close(self) -> None:
    """Releases the lock, so that other processes can open the folder."""
    self._lock.close()

  def __enter__(self) -> "RunFolder":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _write_events(self, rows: list[Row]) -> None:
    if self._events is None:
      self._events = tensorboard.new_file(self.path / _EVENTS)
    tensorboard.write(self._events, rows)


class ReadOnlyFolder(RunFolder):
  """An existing run's folder, for all processes of a run but the first: no lock, writes nothing."""

  def __init__(self, path: str | os.PathLike):
    self.path, self.resumed = Path(path).expanduser().absolute(), True
    self._metrics = self.path / METRICS

  def _do_nothing(self, *_: Any, **__: Any) -> None:
    """Does nothing: only the first process writes."""

  append = append_diagnostics = drop_rows_after = _do_nothing
  write_summary = write_evaluation = close = _do_nothing


def _rounds_done(path: Path) -> int:
  """Returns the last round in a run's metrics, or the greatest of its seeds' last rounds."""
  files = [path / METRICS, *path.glob(f"seed_*/{METRICS}")]
  return max((rows[-1]["round"] for file in files if (rows := read_rows(file)[0])), default=0)
