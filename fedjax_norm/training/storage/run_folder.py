"""The folder of one run: its configuration, its rows of metrics and its summary."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage import provenance, tensorboard
from fedjax_norm.training.storage.atomic_files import read_json, write_atomic, write_json
from fedjax_norm.training.storage.csv_rows import Row, append_rows, read_rows, scalar, write_rows
from fedjax_norm.training.storage.lock import HOLDER, LOCK, locked

CONFIG = "config.json"
FORMAT = 2
"""Of ``config.json``; a run of another one is not resumed. It is raised whenever a change of this
package would let a resumed run go on differently from how it began."""
_METRICS = "metrics.csv"
_DIAGNOSTICS = "diagnostics.csv"
_DIAGNOSTICS_COLUMNS = ("round", "quantity", "place", "value")
_SUMMARY = "summary.json"
_EVENTS = "tensorboard"
# What a folder may hold before its first run has a config: a kill leaves no more than these.
_NO_RUN_YET = {f"{CONFIG}.tmp", LOCK, HOLDER, f"{HOLDER}.tmp"}


def read_config(path: Path) -> dict[str, Any]:
  """What a run was told, from its ``config.json``; by other versions of this package, too.

  Args:
    path: the run's folder.

  Raises:
    UserError: the file is damaged.
  """
  config = read_json(path / CONFIG)
  return {name: value for name, value in config.items() if name not in ("format", "made_by")}


class RunFolder:
  """One run's files: ``config.json``, ``metrics.csv``, ``summary.json``, ``tensorboard/``.

  And ``diagnostics.csv``, of a run that was asked for it. Made by ``RunFolder.open``; a context
  manager. ``metrics.csv`` is the record, the TensorBoard events are derived from it. No other
  process can open the folder until it is closed; see ``ReadOnlyFolder`` for those who only read.

  Attributes:
    path: the folder.
    resumed: whether the folder already held this run when it was opened.
  """

  def __init__(self, path: Path, resumed: bool):
    self.path = path
    self.resumed = resumed
    self._lock = contextlib.ExitStack()
    self._events: Path | None = None
    rows, torn = read_rows(self._metrics)
    if torn:
      write_rows(self._metrics, rows)
    self._columns = tuple(rows[0]) if rows else None
    self._last_round = rows[-1]["round"] if rows else None

  @classmethod
  def open(
    cls, path: str | os.PathLike, config: dict[str, Any], resume: bool = True, wait: bool = False
  ) -> "RunFolder":
    """Opens a new run's folder, or that of a run to go on with.

    Args:
      path: the folder, created with its parents where absent.
      config: flag name to value, JSON types (tuples count as lists). ``config.json`` also gets
        ``made_by``, with an entry for each version or command that the run was started with.
      resume: whether the folder may already hold a run of the same config.
      wait: whether to wait until another process closes the folder.

    Returns:
      The open folder. A last line of metrics torn by a kill is already dropped.

    Raises:
      UserError: the path is no usable folder, holds something other than a run, holds a run of
        another config or of another version's format, holds any run while ``resume`` is False, or
        is in use by another process.
    """
    path = Path(path).expanduser().absolute()
    new = json.loads(json.dumps({**config, "format": FORMAT}))
    try:
      path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
      raise UserError(
        f"{path} cannot be a run folder because it, or a part of it, is a file; pass another "
        "--workdir."
      ) from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
      raise UserError(
        f"The run folder {path} is not writable; change its permissions or pass another --workdir."
      )
    file = path / CONFIG
    names = set(os.listdir(path))
    if CONFIG not in names and names - _NO_RUN_YET:
      raise UserError(
        f"{path} is not empty and holds no {CONFIG}, so it is no run folder; pass an empty or "
        "new --workdir."
      )
    with contextlib.ExitStack() as lock:
      lock.enter_context(locked(path, wait))
      resumed = file.exists()
      if resumed:
        saved = read_json(file)
        entries = saved.pop("made_by", [])
        _check_same(path, saved, new, resume)
      else:
        entries = []
      if (extended := provenance.with_this_process(entries)) != entries:
        content = json.dumps({**new, "made_by": extended}, indent=2, sort_keys=True) + "\n"
        write_atomic(file, content.encode())
      run = cls(path, resumed)
      run._lock = lock.pop_all()
      return run

  @property
  def _metrics(self) -> Path:
    return self.path / _METRICS

  def append(self, row: dict[str, Any]) -> None:
    """Adds one evaluation to ``metrics.csv``, on the disk on return, and to TensorBoard.

    Args:
      row: column name to a scalar: int, float, str, or a zero-dimensional array. ``round`` is an
        int above that of the row before. The columns are those of the first row, in any order.

    Raises:
      UserError: the columns differ from those that the file has.
      ValueError: ``round`` is missing or not increasing, or a text would not read back as itself.
      TypeError: a value is not a scalar of those types.
    """
    row = {name: scalar(name, value) for name, value in row.items()}
    if not isinstance(row.get("round"), int):
      raise ValueError('A row of metrics needs an integer column "round".')
    if self._last_round is not None and row["round"] <= self._last_round:
      raise ValueError(
        f"Round {row['round']} is not after round {self._last_round}, the last one written."
      )
    if self._columns is not None and set(row) != set(self._columns):
      different = sorted(set(row) ^ set(self._columns))
      raise UserError(
        f"{self._metrics} does not have the columns of this run, which differ in "
        f"{', '.join(different)}; restore its first line or pass another --workdir."
      )
    columns = self._columns or tuple(row)
    append_rows(self._metrics, [row], columns, header=self._columns is None)
    self._columns = columns
    self._last_round = row["round"]
    self._emit([row])

  def rows(self) -> list[Row]:
    """The rows of ``metrics.csv`` in order: ints, floats to the last bit, and strings.

    Raises:
      UserError: a line other than a torn last one does not read as a row.
    """
    return read_rows(self._metrics)[0]

  def append_diagnostics(self, rows: list[Row]) -> None:
    """Adds one evaluation's diagnostics to ``diagnostics.csv``, on the disk on return.

    Args:
      rows: each a ``round``, a ``quantity``, a ``place`` and a ``value`` (see ``diagnose``).
    """
    file = self.path / _DIAGNOSTICS
    header = not file.exists() or file.stat().st_size == 0
    append_rows(file, rows, _DIAGNOSTICS_COLUMNS, header)

  def diagnostics(self) -> list[Row]:
    """The rows of ``diagnostics.csv``; none of a run without."""
    return read_rows(self.path / _DIAGNOSTICS)[0]

  def drop_rows_after(self, round: int) -> None:
    """Forgets the rows after a round, so that a resumed run repeats none of them.

    The events of TensorBoard are written anew from the rows that remain.

    Args:
      round: the last round to keep, that of the checkpoint the run goes on from.
    """
    kept = [row for row in self.rows() if row["round"] <= round]
    if self._metrics.exists():
      write_rows(self._metrics, kept)
    if (self.path / _DIAGNOSTICS).exists():
      write_rows(
        self.path / _DIAGNOSTICS, [row for row in self.diagnostics() if row["round"] <= round]
      )
    self._columns = tuple(kept[0]) if kept else None
    self._last_round = kept[-1]["round"] if kept else None
    self._events = None
    tensorboard.delete(self.path / _EVENTS)
    if kept:
      self._emit(kept)

  def write_summary(self, summary: dict[str, Any]) -> None:
    """Writes ``summary.json``, whole or not at all.

    Args:
      summary: JSON types.
    """
    write_json(self.path / _SUMMARY, summary)

  def read_summary(self) -> dict[str, Any] | None:
    """The content of ``summary.json``, or None where there is none yet.

    Raises:
      UserError: the file is damaged.
    """
    file = self.path / _SUMMARY
    return read_json(file) if file.exists() else None

  def close(self) -> None:
    """Lets other processes open the folder."""
    self._lock.close()

  def __enter__(self) -> "RunFolder":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _emit(self, rows: list[Row]) -> None:
    if self._events is None:
      self._events = tensorboard.new_file(self.path / _EVENTS)
    tensorboard.write(self._events, rows)


class ReadOnlyFolder(RunFolder):
  """A run's folder without its lock: for all but the first of several processes of a run."""

  def __init__(self, path: str | os.PathLike):
    """Reads a folder, and leaves it as it is.

    Args:
      path: the folder, which holds a run.
    """
    self.path = Path(path).expanduser().absolute()
    self.resumed = True

  def append(self, row: dict[str, Any]) -> None:
    """Leaves it to the first process."""

  def append_diagnostics(self, rows: list[Row]) -> None:
    """Leaves it to the first process."""

  def drop_rows_after(self, round: int) -> None:
    """Leaves it to the first process."""

  def write_summary(self, summary: dict[str, Any]) -> None:
    """Leaves it to the first process."""

  def close(self) -> None:
    """Nothing is open."""


def _check_same(path: Path, saved: dict[str, Any], new: dict[str, Any], resume: bool) -> None:
  if not resume:
    raise UserError(
      f"{path} already holds a run, and a run is never overwritten; resume it or pass another "
      "--workdir."
    )
  if saved.get("format") != FORMAT:
    raise UserError(
      f"{path} holds a run of another version of fedjax_norm, which this version cannot resume; use"
      " that version or pass another --workdir."
    )
  if differences := _differences(saved, new):
    raise UserError(
      f"{path} holds a run with other flags: {'; '.join(differences)}; pass the same flags or "
      "another --workdir."
    )


def _differences(saved: dict[str, Any], new: dict[str, Any]) -> list[str]:
  # Compared as JSON text: NaN equals itself there, and True does not equal 1.
  def describe(config, name):
    return json.dumps(config[name], sort_keys=True) if name in config else "absent"

  pairs = ((name, describe(saved, name), describe(new, name)) for name in sorted({*saved, *new}))
  return [f"--{n} was {old} in this folder and is {now} now" for n, old, now in pairs if old != now]
