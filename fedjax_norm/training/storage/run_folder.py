"""The folder of one run: configuration, rows of metrics, diagnostics and summary."""

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
"""Format number in ``config.json``; a run with another number cannot be resumed.

Increase it with every change of this package that would make a resumed run differ from a run that
was not interrupted."""
_METRICS = "metrics.csv"
_DIAGNOSTICS = "diagnostics.csv"
_DIAGNOSTICS_COLUMNS = ("round", "quantity", "place", "value")
_SUMMARY = "summary.json"
_EVENTS = "tensorboard"
# Files that a run killed before it wrote its config can leave in the folder.
_NO_RUN_YET = {f"{CONFIG}.tmp", LOCK, HOLDER, f"{HOLDER}.tmp"}


def read_config(path: Path) -> dict[str, Any]:
  """Returns the options of a run from its ``config.json``; reads those of older versions too.

  Args:
    path: the run's folder.

  Raises:
    UserError: the file is damaged.
  """
  config = read_json(path / CONFIG)
  return {name: value for name, value in config.items() if name not in ("format", "made_by")}


class RunFolder:
  """The files of one run; a context manager, made by ``RunFolder.open``.

  The files are ``config.json``, ``metrics.csv``, ``summary.json``, ``tensorboard/`` and, if the run
  records diagnostics, ``diagnostics.csv``. The TensorBoard events are derived from ``metrics.csv``.
  No other process can open the folder until it is closed; ``ReadOnlyFolder`` needs no lock.

  Attributes:
    path: the folder.
    resumed: whether the folder already contained this run when it was opened.
  """

  def __init__(self, path: Path, resumed: bool):
    self.path = path
    self.resumed = resumed
    self._lock = contextlib.ExitStack()
    self._events: Path | None = None
    rows, incomplete = read_rows(self._metrics)
    if incomplete:
      write_rows(self._metrics, rows)
    self._columns = tuple(rows[0]) if rows else None
    self._last_round = rows[-1]["round"] if rows else None

  @classmethod
  def open(
    cls, path: str | os.PathLike, config: dict[str, Any], resume: bool = True, wait: bool = False
  ) -> "RunFolder":
    """Opens the folder of a new run, or of a run to resume.

    Args:
      path: the folder, created with its parents if missing.
      config: flag name to value, JSON types (tuples become lists). ``config.json`` also gets
        ``made_by``, with an entry for each version or command that the run was started with.
      resume: whether the folder may already contain a run with the same config.
      wait: whether to wait until another process closes the folder.

    Returns:
      The open folder. If a kill cut the last line of metrics short, that line is dropped.

    Raises:
      UserError: the path is no usable folder, contains other files, contains a run with another
        config or format, contains any run while ``resume`` is False, or is in use by another
        process.
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
    """Appends one evaluation to ``metrics.csv`` and to the TensorBoard events.

    The row is on the disk when the method returns.

    Args:
      row: column name to a scalar: int, float, str, or a zero-dimensional array. ``round`` is an
        int above that of the previous row. The columns are those of the first row, in any order.

    Raises:
      UserError: the columns differ from those of the file.
      ValueError: ``round`` is missing or not increasing, or a str would be read as another value.
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
      differing = sorted(set(row) ^ set(self._columns))
      raise UserError(
        f"{self._metrics} does not have the columns of this run, which differ in "
        f"{', '.join(differing)}; restore its first line or pass another --workdir."
      )
    columns = self._columns or tuple(row)
    append_rows(self._metrics, [row], columns, header=self._columns is None)
    self._columns = columns
    self._last_round = row["round"]
    self._write_events([row])

  def rows(self) -> list[Row]:
    """Returns the rows of ``metrics.csv`` in order; floats are exact to the last bit.

    Raises:
      UserError: a complete line is damaged.
    """
    return read_rows(self._metrics)[0]

  def append_diagnostics(self, rows: list[Row]) -> None:
    """Appends one evaluation's diagnostics to ``diagnostics.csv``.

    Args:
      rows: rows of ``round``, ``quantity``, ``place`` and ``value`` (see ``diagnostics_recorder``).
    """
    file = self.path / _DIAGNOSTICS
    header = not file.exists() or file.stat().st_size == 0
    append_rows(file, rows, _DIAGNOSTICS_COLUMNS, header)

  def diagnostics(self) -> list[Row]:
    """Returns the rows of ``diagnostics.csv``; no rows if the run records none."""
    return read_rows(self.path / _DIAGNOSTICS)[0]

  def drop_rows_after(self, round: int) -> None:
    """Deletes the rows after a round, because a resumed run writes them again.

    The TensorBoard events are written again from the remaining rows.

    Args:
      round: round of the checkpoint from which the run resumes.
    """
    rows = [row for row in self.rows() if row["round"] <= round]
    if self._metrics.exists():
      write_rows(self._metrics, rows)
    if (self.path / _DIAGNOSTICS).exists():
      write_rows(
        self.path / _DIAGNOSTICS, [row for row in self.diagnostics() if row["round"] <= round]
      )
    self._columns = tuple(rows[0]) if rows else None
    self._last_round = rows[-1]["round"] if rows else None
    self._events = None
    tensorboard.delete(self.path / _EVENTS)
    if rows:
      self._write_events(rows)

  def write_summary(self, summary: dict[str, Any]) -> None:
    """Atomically writes ``summary.json`` from a dict of JSON types."""
    write_json(self.path / _SUMMARY, summary)

  def read_summary(self) -> dict[str, Any] | None:
    """Returns the content of ``summary.json``; None if the file does not exist yet.

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

  def __exit__(self, *_: object) -> None:
    self.close()

  def _write_events(self, rows: list[Row]) -> None:
    if self._events is None:
      self._events = tensorboard.new_file(self.path / _EVENTS)
    tensorboard.write(self._events, rows)


class ReadOnlyFolder(RunFolder):
  """A run's folder without a lock, for every process of a run except the first; writes nothing."""

  def __init__(self, path: str | os.PathLike):
    """Opens a folder that contains a run."""
    self.path = Path(path).expanduser().absolute()
    self.resumed = True

  def _do_nothing(self, *_: Any, **__: Any) -> None:
    """Does nothing; the first process writes."""

  append = append_diagnostics = drop_rows_after = write_summary = close = _do_nothing


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
  # Values are compared as JSON text, in which NaN equals NaN and True differs from 1.
  def describe(config: dict[str, Any], name: str) -> str:
    return json.dumps(config[name], sort_keys=True) if name in config else "absent"

  pairs = ((name, describe(saved, name), describe(new, name)) for name in sorted({*saved, *new}))
  return [f"--{n} was {old} in this folder and is {now} now" for n, old, now in pairs if old != now]
