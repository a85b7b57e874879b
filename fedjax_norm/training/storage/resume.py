"""Where a run goes on: the state of its newest checkpoint, and the rows up to it."""

from fedjax_norm.algorithms.ledger import Traffic
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.checkpoint import Checkpoints
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.typing import PyTree

# What the end of every run reads of its last row, beside a measure of its task.
_COLUMNS = ("train_loss", "loss", *Traffic._fields, "seconds")


def resume(folder: RunFolder, checkpoints: Checkpoints, fresh: PyTree) -> tuple[PyTree, list[Row]]:
  """Restores a run and drops the rows after its newest checkpoint, which are computed again.

  Prints a note when that is more than the one row that a kill between a row and its checkpoint
  leaves.

  Args:
    folder: of the run.
    checkpoints: of the run.
    fresh: the state before round 0, for a run without checkpoints.

  Returns:
    (the state, the rows up to it).

  Raises:
    UserError: no checkpoint is readable, the rows end before the checkpoint, or they lack a column.
  """
  state = fresh if checkpoints.latest() is None else checkpoints.restore(fresh)
  round_, rows = checkpoints.latest() or 0, folder.rows()
  kept = [row for row in rows if row["round"] <= round_]
  if (kept[-1]["round"] if kept else 0) != round_:
    raise UserError(
      f"{folder.path} has a checkpoint of round {round_}, but its metrics.csv ends before; put the "
      "file back or pass another --workdir."
    )
  missing = [name for name in _COLUMNS if kept and name not in kept[0]]
  if missing:
    raise UserError(
      f"{folder.path / 'metrics.csv'} has no column {', '.join(missing)}; restore its first line "
      "or pass another --workdir."
    )
  again = len(rows) - len(kept)
  ended = folder.read_summary() is not None
  if again > 1 or (
    again and (ended or len(checkpoints.rounds()) < min(checkpoints.keep, len(kept)))
  ):
    print(
      f"note: the run goes on from round {round_}, that of the newest checkpoint in "
      f"{checkpoints.path}; rows of metrics.csv to compute again: {again}."
      if round_
      else f"note: there is no checkpoint in {checkpoints.path}, so the run begins again at round "
      f"0; rows of metrics.csv to compute again: {again}.",
      flush=True,
    )
  folder.drop_rows_after(round_)
  return state, kept
