"""Run folders with a folder in place of a file, or the reverse: an error of one sentence."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """Path of a finished run that all tests copy."""
  return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run(fedavg_run, finished, one_convolution):
  """() -> Result of running the command again, with its finished run in ``run``."""
  flags = ("--workdir=run", "--diagnostics")
  if not finished.exists():
    assert fedavg_run(*flags).code == 0
    shutil.copytree("run", finished)
  else:
    shutil.copytree(finished, "run")
  return lambda: fedavg_run(*flags)


def swap(name: str) -> None:
  """Replaces a file by a folder, and a folder by a file."""
  path = Path("run") / name
  if path.is_dir():
    shutil.rmtree(path)
    path.write_text("x")
  else:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize(
  "name",
  [
    "checkpoints",
    "config.json",
    "diagnostics.csv",
    "learning_curves.png",
    "metrics.csv",
    "metrics.csv.tmp",
    "model.msgpack",
    "partition.png",
    "run.lock",
    "run.lock.json",
    "summary.json",
    "tensorboard",
  ],
)
def test_a_folder_in_place_of_a_file_or_the_reverse(run, name):
  swap(name)
  result = run()
  assert result.code == 2, result.err
  assert result.err.count("\n") == 1
  assert f"/run/{name.removesuffix('.tmp')}" in result.err


@pytest.mark.parametrize("name", ["loss", "top1", "top5", "bytes_up", "seconds", "round"])
def test_a_renamed_column(run, name):
  metrics = Path("run") / "metrics.csv"
  header, rest = metrics.read_text().split("\n", 1)
  columns = [f"{c}_" if c == name else c for c in header.split(",")]
  metrics.write_text("\n".join((",".join(columns), rest)))
  result = run()
  assert (result.code, result.err.count("\n")) == (2, 1)
  assert "metrics.csv" in result.err
