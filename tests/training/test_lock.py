"""The lock on a run's folder, which another process holds."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.binaries import PYTHONPATH

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.run_folder import ReadOnlyFolder, RunFolder

CONFIG = {"clients": 10}
_HOLD = """
import sys, time
from fedjax_norm.training.storage.run_folder import RunFolder
with RunFolder.open(sys.argv[1], {'clients': 10}) as folder:
  folder.append({'round': 1})
  print('open', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  """A process that has opened ``tmp_path`` as its run folder."""
  with subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(tmp_path)],
    stdout=subprocess.PIPE,
    env={**os.environ, "PYTHONPATH": PYTHONPATH},
  ) as process:
    assert process.stdout.readline() == b"open\n"
    yield process
    process.kill()


def test_a_folder_in_use_is_refused_with_its_holder_but_can_be_read(tmp_path, holder):
  before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
  for resume in (True, False):
    with pytest.raises(UserError, match=f"in use by process {holder.pid} on .* since 20") as caught:
      RunFolder.open(tmp_path, CONFIG, resume)
    assert "--wait_for_workdir" in str(caught.value)
  assert ReadOnlyFolder(tmp_path).rows() == [{"round": 1}]
  assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_killed_holder_leaves_no_lock(tmp_path, holder):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with RunFolder.open(tmp_path, CONFIG) as folder:
    assert folder.resumed
    assert json.loads((tmp_path / "run.lock.json").read_text())["process"] == os.getpid()


def test_waiting_prints_one_note_and_then_resumes_the_run(tmp_path, holder, capsys):
  def end():
    time.sleep(1)
    holder.kill()

  thread = threading.Thread(target=end)
  thread.start()
  with RunFolder.open(tmp_path, CONFIG, wait=True) as folder:
    assert folder.rows() == [{"round": 1}]
  thread.join()
  out = capsys.readouterr().out
  assert out.startswith(f"note: waiting for {tmp_path}, which is in use by process {holder.pid}")
  assert out.count("\n") == 1


def test_a_refused_config_and_a_closed_folder_are_not_locked(tmp_path):
  with RunFolder.open(tmp_path, CONFIG):
    pass
  with pytest.raises(UserError, match="other flags"):
    RunFolder.open(tmp_path, {"clients": 11})
  with RunFolder.open(tmp_path, CONFIG), pytest.raises(UserError, match="in use by process"):
    RunFolder.open(tmp_path, CONFIG)


def test_a_folder_with_other_files_is_not_changed(tmp_path):
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match="no run folder"):
    RunFolder.open(tmp_path, CONFIG)
  assert os.listdir(tmp_path) == ["file"]
