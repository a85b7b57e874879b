"""The round from which a run resumes, and the notes and errors if a part of it is missing."""

import shutil

import numpy as np
import pytest

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.checkpoint import Checkpoints
from fedjax_norm.training.storage.resume import resume
from fedjax_norm.training.storage.run_folder import RunFolder


def row(round):
  traffic = {"bytes_up": 1, "bytes_down": 1, "round_trips": 1}
  return {"round": round, "train_loss": 1.0, "loss": 1.0, "top1": 0.5, **traffic, "seconds": 1.0}


@pytest.fixture
def run(tmp_path):
  """(rounds with checkpoints, rounds with rows) -> the folder of such a run."""

  def make(saved, rows):
    with (
      RunFolder.open(tmp_path, {}) as folder,
      Checkpoints(tmp_path / "checkpoints") as checkpoints,
    ):
      for round in rows:
        folder.append(row(round))
      for round in saved:
        checkpoints.save(round, np.int64(round))
    return tmp_path

  return make


def resumed(path):
  """Returns the round of the resumed state; checks that the rows end there."""
  with RunFolder.open(path, {}) as folder, Checkpoints(path / "checkpoints") as checkpoints:
    state, rows = resume(folder, checkpoints, np.int64(0))
    assert folder.rows() == rows == [row(round) for round in range(1, int(state) + 1)]
  return int(state)


@pytest.mark.parametrize(
  ("saved", "rows"), [((), ()), ((), (1,)), ((1,), (1,)), ((1,), (1, 2)), ((1, 2), (1, 2, 3))]
)
def test_a_kill_between_a_row_and_its_checkpoint_needs_no_note(run, saved, rows, capsys):
  assert resumed(run(saved, rows)) == max(saved, default=0)
  assert capsys.readouterr().out == ""


def test_lost_checkpoints_are_noted(run, capsys):
  path = run((1, 2, 3), (1, 2, 3))
  shutil.rmtree(path / "checkpoints" / "3")
  assert resumed(path) == 2
  assert capsys.readouterr().out == (
    f"note: the run resumes from round 2, that of the newest checkpoint in {path}/checkpoints; "
    "rows of metrics.csv to compute again: 1.\n"
  )
  shutil.rmtree(path / "checkpoints")
  assert resumed(path) == 0
  assert capsys.readouterr().out == (
    f"note: there is no checkpoint in {path}/checkpoints, so the run starts again at round 0; "
    "rows of metrics.csv to compute again: 2.\n"
  )


def test_the_lost_checkpoint_of_a_finished_run_is_noted(run, capsys):
  path = run((1, 2), (1, 2))
  (path / "summary.json").write_text("{}")
  shutil.rmtree(path / "checkpoints" / "2")
  assert resumed(path) == 1
  assert "rows of metrics.csv to compute again: 1" in capsys.readouterr().out


@pytest.mark.parametrize("column", ["loss", "bytes_up", "seconds"])
def test_a_renamed_column_is_refused(run, column):
  path = run((1,), (1,))
  metrics = path / "metrics.csv"
  header, rest = metrics.read_text().split("\n", 1)
  names = ["other" if name == column else name for name in header.split(",")]
  metrics.write_text("\n".join((",".join(names), rest)))
  with pytest.raises(UserError, match=r"metrics\.csv has no column"):
    resumed(path)
