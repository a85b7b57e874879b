"""A binary whose reader has ended, or that Ctrl-C ends early, prints no traceback."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from helpers.binaries import ROOT

from fedjax_norm.cli import app
from fedjax_norm.training.terminal.signals import Terminated


@pytest.mark.parametrize("size", [1, 10**6])  # fails when the buffer is flushed, or in ``print``
def test_a_reader_that_has_ended(size, capsys, monkeypatch):
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, "w") as stdout, monkeypatch.context() as patch:
    patch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as end, app.quiet_without_reader():
      sys.exit(app.guard(lambda: print("x" * size)))
  assert end.value.code == 141
  assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_modules_are_imported(tmp_path):
  """The process gets the signal in the first import of a large package."""
  (tmp_path / "jax.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
  path = os.pathsep.join((str(tmp_path), str(ROOT)))
  command = [sys.executable, "-m", "experiments.fedavg"]
  done = subprocess.run(
    command, env={"PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize(("stop", "name"), [(KeyboardInterrupt, "Ctrl-C"), (Terminated, "SIGTERM")])
def test_a_checkpoint_is_named_only_if_there_is_one(stop, name, capsys):
  def work(*notes):
    error = stop()
    for note in notes:
      error.add_note(note)
    raise error

  app.guard(work)
  saved = "round 2 is saved in here, and the same --workdir resumes from it"
  app.guard(lambda: work(saved))
  assert capsys.readouterr().err == (
    f"error: stopped by {name}.\nerror: stopped by {name}; {saved}.\n"
  )


@pytest.mark.parametrize("resumes", [False, True])
def test_a_full_disk_promises_a_checkpoint_only_if_there_are_any(resumes, capsys):
  def work():
    raise OSError(errno.ENOSPC, "No space left on device", "x.npy")

  assert app.guard(work, resumes) == 1
  end = " to resume from the last checkpoint" if resumes else ""
  assert capsys.readouterr().err == (
    "error: x.npy cannot be read or written (No space left on device); free some space and run the"
    f" same command again{end}.\n"
  )
