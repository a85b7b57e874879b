"""A run of ``experiments.fedavg`` that was stopped or killed resumes with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.binaries import PYTHONPATH, SMALL
from helpers.run_bits import parameters, read

from fedjax_norm.training.storage.checkpoint import Checkpoints


@pytest.mark.usefixtures("one_convolution")
def test_a_finished_run_is_not_run_again(fedavg_run):
  assert fedavg_run("--workdir=run").code == 0
  metrics, summary = Path("run") / "metrics.csv", Path("run") / "summary.json"
  before = metrics.read_bytes(), summary.read_bytes()
  again = fedavg_run("--workdir=run")
  assert again.code == 0
  assert "is complete; nothing is trained" in again.out
  assert metrics.read_bytes() == before[0]
  # A sweep and a run do not share a folder.
  result = fedavg_run("--workdir=run", "--seeds=2")
  assert result.code == 2
  assert "seeds" in result.err
  assert summary.read_bytes() == before[1]
  # A missing metrics.csv is an error in one sentence.
  metrics.unlink()
  result = fedavg_run("--workdir=run")
  assert result.code == 2
  assert "metrics.csv" in result.err


@pytest.mark.usefixtures("one_convolution")
@pytest.mark.parametrize(
  "options",
  [
    ("--norm=fixbn", "--freeze_round=auto", "--client_momentum=global"),
    ("--norm=bn", "--fedbn", "--cohort=3"),
  ],
)
@pytest.mark.long
def test_a_run_stopped_before_a_checkpoint_resumes_with_the_same_bits(
  fedavg_run, options, monkeypatch
):
  """After a stop between a row and its checkpoint, the row is dropped and written again."""
  options = ("--rounds=24", "--eval_every=4", *options)
  assert fedavg_run(*options, "--workdir=whole").code == 0
  save = Checkpoints.save
  for last in (4, 20):  # before a freeze and after

    def stop(self, round, state, last=last):
      if round > last:
        raise KeyboardInterrupt
      save(self, round, state)

    with monkeypatch.context() as patch:
      patch.setattr(Checkpoints, "save", stop)
      assert fedavg_run(*options, "--workdir=stopped").code == 130
    assert int(read(Path("stopped"))[-1]["round"]) > last
  assert fedavg_run(*options, "--workdir=stopped").code == 0
  assert read(Path("stopped")) == read(Path("whole"))
  assert parameters(Path("stopped")) == parameters(Path("whole"))


@pytest.mark.usefixtures("one_convolution")
@pytest.mark.parametrize(
  ("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]
)
def test_a_signal_waits_for_the_checkpoint_and_prints_its_round(
  fedavg_run, monkeypatch, interruptible, number, code, name
):
  save = Checkpoints.save

  def save_after_signal(self, round, state):
    signal.raise_signal(number)
    save(self, round, state)

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "save", save_after_signal)
    result = fedavg_run("--workdir=stopped")
  folder = Path("stopped").absolute()
  assert (result.code, result.err) == (
    code,
    f"error: stopped by {name}; round 2 is saved in {folder}/checkpoints, and the same --workdir "
    "resumes from it.\n",
  )
  assert [row["round"] for row in read(folder)] == ["2"]
  result = fedavg_run("--workdir=stopped")
  assert (result.code, result.out.count("note:")) == (0, 1)
  assert "has reached round 2 and resumes from its last checkpoint" in result.out
  assert fedavg_run("--workdir=whole").code == 0
  assert read(folder) == read(Path("whole"))
  assert parameters(folder) == parameters(Path("whole"))


@pytest.mark.long
def test_a_killed_run_resumes_with_the_same_bits(fedavg_run, tmp_path):
  """After SIGKILL at a random moment, the same command gives the bits of an undisturbed run."""
  options = ("--rounds=24", "--eval_every=4", "--norm=fixbn", "--freeze_round=7", "--cohort=3")
  assert fedavg_run(*options, "--workdir=whole").code == 0
  command = [sys.executable, "-m", "experiments.fedavg", *SMALL, *options]
  environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
  chance = random.Random(str(options))
  metrics = tmp_path / "killed" / "metrics.csv"
  with subprocess.Popen([*command, "--workdir=killed"], env=environment, cwd=tmp_path) as run:
    while not metrics.exists() and run.poll() is None:
      time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))
    run.send_signal(signal.SIGKILL)
  # A kill can leave an incomplete row.
  with open(metrics, "a") as file:
    file.write("21,expl")
  checkpoint = Checkpoints(tmp_path / "killed" / "checkpoints").latest()
  assert checkpoint is None or 0 < checkpoint <= 24
  result = fedavg_run(*options, "--workdir=killed")
  assert result.code == 0, result.err
  assert read(Path("killed")) == read(Path("whole"))
  assert parameters(Path("killed")) == parameters(Path("whole"))
