"""The effect of a full disk, a second process and a signal on the server and a client."""

import errno
import itertools
import os
import signal
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
from helpers.binaries import free_port
from helpers.wire_binaries import CLIENT, DATA, SERVER, party, run, together

from fedjax_norm.cli.wire import server
from fedjax_norm.training.storage.lock import locked
from fedjax_norm.wire.client import training
from fedjax_norm.wire.server import run_requests

pytestmark = pytest.mark.usefixtures("compiled_once")

HOW = ("--client_names=alice0", "--image_shape=6x6x1", "--classes=4", "--norm=bn", "--cut=conv1",
       "--rounds=2", "--eval_every=1", "--batch_size=8")  # fmt: skip
MINE = (DATA[0], "--cut=conv1", "--init_seed=0")


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
  """Parties that wait ask again soon."""
  monkeypatch.setattr(run_requests, "_LONGEST_POLL", 0.05)
  monkeypatch.setattr(training, "PAUSE", 0.02)
  monkeypatch.setattr(server, "_GRACE", 0.2)


def parties(folder: str, *options: str) -> dict[str, tuple]:
  """Returns the arguments of :func:`wire_binaries.run` for both sides of a run."""
  address = f"localhost:{free_port()}"
  server = (*party("localhost", *HOW, *options), f"--listen={address}", "--patience=2")
  client = (*party("alice0", *MINE), f"--server={address}", "--patience=60")
  return {
    "server": (*SERVER, *server, f"--workdir={folder}/server"),
    "client": (*CLIENT, *client, f"--workdir={folder}/client"),
  }


def results(folder: str) -> dict[str, list]:
  """Returns the results of a run without the counted bytes, which include repeated requests."""
  content = {}
  for path in ("server/body.npz", "client/head.npz", "client/tail.npz"):
    if Path(folder, path).exists():
      content |= {f"{path}/{k}": v.tobytes() for k, v in np.load(Path(folder, path)).items()}
  for path in ("server/metrics.csv", "client/metrics.csv"):
    header, *rows = (line.split(",") for line in Path(folder, path).read_text().splitlines())
    columns = [i for i, column in enumerate(header) if not column.startswith("bytes")]
    content[path] = [[line[i] for i in columns] for line in (header, *rows)]
  return content


def run_until_success(*one) -> list[int]:
  """Repeats a command until it succeeds; returns the exit codes."""
  codes = [run(*one)]
  while codes[-1] and len(codes) < 4:
    codes.append(run(*one))
  return codes


@pytest.mark.parametrize(
  ("whose", "options"), [("server", ()), ("client", ("--hand_over=peer", "--tail=conv3"))]
)
@pytest.mark.long
def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(
  made, monkeypatch, capsys, caplog, whose, options
):
  mine = ("--tail=conv3",) if options else ()
  sync = os.fsync

  def trained(folder: str) -> dict[str, list[int]]:
    sides = parties(folder, *options)
    sides["client"] = (*sides["client"], *mine)
    with futures.ThreadPoolExecutor(2) as threads:
      return dict(
        zip(sides, threads.map(lambda one: run_until_success(*one), sides.values()), strict=True)
      )

  trained("whole")
  whole = results("whole")
  assert len(whole) > 6
  capsys.readouterr()
  for number in itertools.count(1):
    folder, count = Path(f"full{number}").absolute(), itertools.count(1)

    def full(descriptor, mark=f"{folder}/{whose}", count=count, number=number):
      path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
      if path.is_file() and f"{path}".startswith(mark) and next(count) == number:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      sync(descriptor)

    with monkeypatch.context() as patch:
      patch.setattr(os, "fsync", full)
      codes = trained(f"{folder}")
    assert results(f"{folder}") == whole, number
    err = capsys.readouterr().err
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    if next(count) <= number:
      assert not err
      break
    assert "No space left on device" in err, number
    assert all(line.startswith("error: ") for line in err.splitlines()), err
    assert codes[whose] == [1, 0]
    assert {code for one in codes.values() for code in one} == {0, 1}
  assert number > {"server": 10, "client": 8}[whose]


def test_two_processes_do_not_share_a_folder(made, capsys):
  server, client = parties("run").values()
  with together(server) as codes:
    while not Path("run/server/members.json").exists():
      time.sleep(0.01)
    assert run(*server) == 2
    Path("run/client").mkdir()
    with locked(Path("run/client")):
      assert run(*client) == 2
    err = capsys.readouterr().err.splitlines()
    for line, folder in zip(err, ("server", "client"), strict=True):
      assert f"run/{folder} is in use by process {os.getpid()} on " in line
    assert run(*client) == 0
  assert codes == [0]


@pytest.mark.long
def test_sigterm_is_one_sentence(made, started):
  server, client = parties("run").values()
  both = started("split_server", *server[2:]), started("split_client", *client[2:])
  lines = [next(line for line in one.stdout if word in line)
           for one, word in zip(both, ("listening", "has joined"), strict=True)]  # fmt: skip
  assert len(lines) == 2
  for one in reversed(both):
    one.send_signal(signal.SIGTERM)
    printed, _ = one.communicate()
    assert one.returncode == 143, printed
    assert printed.count("stopped by SIGTERM") == 1
    assert "Traceback" not in printed
