"""Resumes a run from its newest checkpoint and the rows of ``metrics.csv`` up to that round."""

from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.checkpoint import Checkpoints
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.typing import PyTree

# Columns that every run reads from the last row when it ends, in addition to its task's metric.
_COLUMNS = ("train_loss", "loss", *Traffic._fields, "seconds")


def resume(folder: RunFolder, checkpoints: Checkpoints, fresh: PyTree) -> tuple[PyTree, list[Row]]:
  """Restores the newest checkpoint of a run, and deletes the rows of metrics of later rounds.

  The resumed run computes the deleted rows again. A kill between writing a row and its checkpoint
  leaves one such row. More rows, or a row of a finished run, mean that checkpoints were lost; then
  a note is printed.

  Args:
    folder: the run's folder.
    checkpoints: the run's checkpoints.
    fresh: the initial state; returned if there is no checkpoint.

  Returns:
    (the state, the rows up to the state's round).

  Raises:
    UserError: every checkpoint is damaged, the rows end before the newest one, or lack a column.
  """
  state = fresh if checkpoints.latest() is None else checkpoints.restore(fresh)
  round_, all_rows = checkpoints.latest() or 0, folder.rows()
  rows = [row for row in all_rows if row["round"] <= round_]
  if (rows[-1]["round"] if rows else 0) != round_:
    raise UserError(
      f"{folder.path} has a checkpoint of round {round_}, but its metrics.csv ends earlier; "
      "restore the file or pass another --workdir."
    )
  missing = [name for name in _COLUMNS if rows and name not in rows[0]]
  if missing:
    raise UserError(
      f"{folder.path / 'metrics.csv'} has no column {', '.join(missing)}; restore its first line "
      "or pass another --workdir."
    )
  again = len(all_rows) - len(rows)
  finished = folder.read_summary() is not None
  missing_saves = len(checkpoints.rounds()) < min(checkpoints.keep, len(rows))
  if again > 1 or (again and (finished or missing_saves)):
    print(
      f"note: the run resumes from round {round_}, that of the newest checkpoint in "
      f"{checkpoints.path}; rows of metrics.csv to compute again: {again}."
      if round_
      else f"note: there is no checkpoint in {checkpoints.path}, so the run starts again at round "
      f"0; rows of metrics.csv to compute again: {again}.",
      flush=True,
    )
  folder.drop_rows_after(round_)
  return state, rows
