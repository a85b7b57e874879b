"""A full disk: an error of one sentence, and the same bits after space is freed."""

import errno
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.binaries import PYTHONPATH, SMALL
from helpers.run_bits import parameters, read

from fedjax_norm.cli import app, methods, train
from fedjax_norm.plots import base
from fedjax_norm.training.storage import checkpoint

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
  """Makes every write to a folder fail once: each file, for each newest checkpoint of the run.

  Attributes:
    folder: folder in which the next write fails; None if writes succeed.
    refused: the failed writes.
  """

  def __init__(self) -> None:
    self.folder: Path | None = None
    self.refused: set[tuple] = set()
    self._newest = 0
    sys.addaudithook(self._hook)

  def attempt(self, folder: Path) -> None:
    """Makes the first write of the next run fail that has not failed before."""
    saved = [int(f.name) for f in folder.glob("checkpoints/*") if f.name.isdigit()]
    self._newest, self.folder = max(saved, default=0), folder

  def check(self, what: str, path: object) -> None:
    if self.folder is None or not str(path).startswith(f"{self.folder}{os.sep}"):
      return
    write = (what, re.sub(r"events\.\d+", "events", str(path)), self._newest)
    if write not in self.refused:
      self.refused.add(write)
      self.last = write
      self.folder = None
      # The error of a file descriptor has no file name.
      name = () if what == "fsync" else (str(path),)
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *name)

  def _hook(self, event: str, arguments: tuple) -> None:
    if self.folder is None:
      return
    if event == "open" and not isinstance(arguments[0], int) and arguments[2] & _WRITES:
      self.check(event, arguments[0])
    elif event == "os.rename":
      self.check(event, arguments[1])
    elif event == "os.mkdir" and not Path(arguments[0]).exists():
      self.check(event, arguments[0])


@pytest.fixture(scope="module")
def disk() -> Disk:
  return Disk()


@pytest.fixture
def run_seed(monkeypatch):
  """(folder) -> exit code of a run; all runs share one compiled program."""
  config = methods.FEDAVG_CONFIG(
    data="synthetic:classes=4,train=64,test=32,size=6",
    clients=4,
    batch_size=8,
    norm="fixbn",
    rounds=2,
    eval_every=1,
    diagnostics=True,
    progress=False,
    host_devices=2,
  )
  config, task = train.prepare(config, train.load(config))
  program = train.make(task, config)

  class Canvas:
    """Draws nothing, because drawing takes most of the time."""

    def __init__(self, figure):
      pass

    def print_figure(self, path, **_):
      Path(path).write_bytes(b"picture")

  monkeypatch.setattr(base, "FigureCanvasAgg", Canvas)
  return lambda folder: app.guard(lambda: train.run_seed(config, task, program, folder) and None)


@pytest.mark.usefixtures("one_convolution")
@pytest.mark.long
def test_a_run_survives_one_failure_of_every_write(tmp_path, run_seed, disk, capsys, monkeypatch):
  complete, folder = tmp_path / "complete", tmp_path / "run"
  assert run_seed(complete) == 0
  fsync = os.fsync

  def checked(descriptor):
    disk.check("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
    fsync(descriptor)

  monkeypatch.setattr(os, "fsync", checked)
  monkeypatch.setattr(checkpoint, "_DELETE_SECONDS", 0)
  for _ in itertools.count():
    capsys.readouterr()
    disk.attempt(folder)
    code = run_seed(folder)
    err = capsys.readouterr().err
    if disk.folder:
      break  # no write failed
    assert code == 1, disk.last
    assert re.fullmatch(r"error: /\S* cannot be read or written \(No space .*\n", err), err
    assert "free some space and run the same command again" in err
  assert (code, err) == (0, "")
  names = {Path(path).name for _, path, _ in disk.refused}
  assert names >= {"metrics.csv", "diagnostics.csv", "summary.json.tmp", "model.msgpack.tmp"}
  assert names >= {"config.json.tmp", "partition.png.tmp", "checksums.json.tmp", "run.lock"}
  assert len(disk.refused) > 50
  assert read(folder) == read(complete)
  assert parameters(folder) == parameters(complete)
  assert {f.name for f in folder.iterdir()} == {f.name for f in complete.iterdir()}
  for name in ("model.msgpack", "diagnostics.csv"):
    assert (folder / name).read_bytes() == (complete / name).read_bytes()


@pytest.mark.long
def test_a_full_file_system(tmp_path, fedavg_run):
  """Uses a real file system, because Orbax writes without Python's ``open``."""
  (small := tmp_path / "small").mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("mounting a small file system is not permitted here")
  try:
    options = ("--norm=gn", "--rounds=6", "--eval_every=1")
    command = [sys.executable, "-m", "experiments.fedavg", *SMALL, *options]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
      [*command, f"--workdir={small / 'run'}"],
      env=environment,
      cwd=tmp_path,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 1
    sentence = (
      r"error: \S*/run/checkpoints cannot be read or written \(No space left on device\).*\n"
    )
    assert re.fullmatch(sentence, done.stderr), done.stderr
    assert {path.name for path in (small / "run" / "checkpoints").iterdir()} <= set("123456")
    subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
    for folder in (small / "run", tmp_path / "complete"):
      result = fedavg_run(*options, f"--workdir={folder}")
      assert result.code == 0, result.err
    assert read(small / "run") == read(tmp_path / "complete")
    assert parameters(small / "run") == parameters(tmp_path / "complete")
  finally:
    subprocess.run(["umount", str(small)], check=True)
