"""The two sides of a wire and their certificates, as real processes that are killed."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from experiments_helpers import ROOT, free_port
from wire_world import by_messages

from experiments import app, build, certificates, split_client, split_server
from experiments.flags import define, parse
from experiments.split_flags import SplitFlags, make_split_config
from experiments.training import settler
from experiments.wire_flags import CertificatesFlags, ClientFlags, ServerFlags
from fedjax_norm.errors import UserError

DATA = ("--data=synthetic:classes=4,train=16,test=8,size=6", "--clients=2")
SHAPE = ("--image_shape=6x6x1", "--classes=4", "--client_names=alice0,alice1")
TRAINING = ("--rounds=4", "--eval_every=2", "--batch_size=4", "--norm=bn", "--cut=conv1")


def party(name: str, *options: str) -> tuple[str, ...]:
  own = (f"--certificate=certificates/{name}.pem", f"--key=certificates/{name}.key")
  return (*own, f"--workdir={name}", *options)


@pytest.fixture
def made(tmp_path, monkeypatch):
  """The folder that the test works in, with certificates."""
  monkeypatch.chdir(tmp_path)
  certificates.main(CertificatesFlags(clients="alice0,alice1,carol"))
  return tmp_path


def run(config: type, main, *options: str) -> int:
  """A binary in this process; its exit code."""
  values = flags.FlagValues()
  define(config, values)
  values(["binary", *options])
  return app.guard(lambda: main(parse(config, values)))


@contextlib.contextmanager
def together(*runs: tuple) -> Iterator[list[int]]:
  """Binaries in threads of this process while the context lasts; their exit codes after it."""
  with futures.ThreadPoolExecutor(len(runs)) as threads:
    codes: list[int] = []
    jobs = [threads.submit(run, *one) for one in runs]
    yield codes
    codes += [job.result() for job in jobs]


def started(binary: str, *options: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", f"experiments.{binary}", *options],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_killed_processes_go_on_to_the_bits_of_the_simulation(made):
  """Bob and one of two Alices are killed in the middle, and the same commands go on."""
  address = f"localhost:{free_port()}"
  server = "split_server", *party("localhost", *SHAPE, *TRAINING, f"--listen={address}")
  shared = *DATA, f"--server={address}"
  client = "split_client", *party("alice1", *shared, "--client_id=1")
  first = started(*server), started(*client)
  here = ClientFlags, split_client.main, *party("alice0", *shared, "--client_id=0", "--init_seed=0")
  with together(here) as codes:
    while not Path("localhost/state.frame").exists():
      assert first[0].poll() is None, first[0].communicate()
      time.sleep(0.01)
    for process in first:
      process.send_signal(signal.SIGKILL)
      process.communicate()
    for process in (started(*server), started(*client)):
      text = process.communicate(timeout=120)[0]
      assert process.returncode == 0, text
      assert "0 passed on" in text or "test top-1" in text
  assert codes == [0]
  values = flags.FlagValues()
  define(SplitFlags, values)
  values(["simulation", *DATA, *TRAINING])
  config, task = settler(build.make_source(config := parse(SplitFlags, values)))(config)
  rates = build.make_schedule(config).rates(config.rounds)
  simulated = by_messages(task, make_split_config(config), rates)
  for part in ("localhost/body.npz", "alice0/head.npz", "alice1/head.npz"):
    found = np.load(part)
    assert len(found) >= 5
    for name in found:
      np.testing.assert_array_equal(found[name], simulated[name], name)
  rows = Path("localhost/metrics.csv").read_text().splitlines()
  assert [row.split(",")[:4] for row in rows[1:]] == [["2", "4", "0", "4"], ["4", "8", "0", "8"]]


def test_a_third_party_predicts_in_the_u_shape(made, capsys):
  address = f"localhost:{free_port()}"
  how = ("--rounds=1", "--batch_size=8", "--norm=gn", "--cut=conv1", "--tail=conv3")
  peer = ("--hand_over=peer", "--handed_over=updates", f"--listen={address}")
  shared = (*DATA, f"--server={address}")
  with together(
    (ServerFlags, split_server.main, *party("localhost", *SHAPE, *how, *peer)),
    (ClientFlags, split_client.main, *party("alice0", *shared, "--client_id=0")),
    (ClientFlags, split_client.main, *party("alice1", *shared, "--client_id=1")),
    (ClientFlags, split_client.main, *party("carol", *shared, "--predict")),
  ) as codes:
    pass
  out, err = capsys.readouterr()
  assert codes == [0, 0, 0, 0], err
  lines = Path("carol/predictions.csv").read_text().splitlines()
  right = [line.split(",")[1] == line.split(",")[2] for line in lines[1:]]
  assert len(right) == 8
  assert f"8 test images, {np.mean(right):.2%} right" in out
  metrics = Path("alice1/metrics.csv").read_text().splitlines()
  assert float(metrics[1].split(",")[-1]) == np.mean(right)
  body, head, tail = (
    np.load(p) for p in ("localhost/body.npz", "alice0/head.npz", "alice0/tail.npz")
  )
  assert "params/Conv_1/kernel" in body
  assert sorted(tail) == ["params/Dense_0/bias", "params/Dense_0/kernel"]
  assert "train_loss" not in Path("localhost/metrics.csv").read_text()
  assert "params/Conv_0/kernel" in head
  for secret in (*Path().glob("certificates/*.key"), *Path().glob("alice*/*.key")):
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
  kept = list(Path("alice1").glob("hand_over-*.frame"))
  assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600]


def test_certificates_are_never_overwritten(made):
  before = Path("certificates/alice0.key").read_bytes()
  again = CertificatesFlags(clients="alice2,alice0")
  with pytest.raises(UserError, match=r"is there already and is not overwritten"):
    certificates.main(again)
  assert Path("certificates/alice0.key").read_bytes() == before
  assert not Path("certificates/alice2.key").exists()
  for wrong, text in (
    (CertificatesFlags(), "nobody to certify"),
    (CertificatesFlags(output="x", clients="a,a"), "same name"),
    (CertificatesFlags(output="x", clients="localhost"), "same name"),
    (CertificatesFlags(output="x", clients="a b"), "cannot be a client's name"),
    (CertificatesFlags(output="x", clients="a", server="-"), "neither a host's name nor"),
    (CertificatesFlags(output="x", clients="a", days=0), "at least 1"),
  ):
    with pytest.raises(UserError, match=text):
      certificates.main(wrong)
  assert not Path("x").exists()


SERVER, CLIENT = (ServerFlags, split_server.main), (ClientFlags, split_client.main)


@pytest.mark.parametrize(
  ("which", "options", "text"),
  [
    (SERVER, party("localhost"), "give the names on the clients' certificates"),
    (SERVER, party("localhost", "--client_names=a,a"), "give the names"),
    (SERVER, party("localhost", "--client_names=a"), "give height, width and channels"),
    (SERVER, party("localhost", SHAPE[0], SHAPE[2]), "number of --classes"),
    (SERVER, (*SHAPE, "--cut=conv1"), "give this party's --certificate"),
    (SERVER, party("localhost", *SHAPE, "--norm=wn"), "weight normalization starts"),
    (SERVER, party("localhost", *SHAPE, "--norm=fixbn"), "FixBN changes the network half-way"),
    (SERVER, party("localhost", *SHAPE, "--lr_schedule=plateau"), "another schedule"),
    (SERVER, party("localhost", *SHAPE, "--listen=here"), "write HOST:PORT"),
    (CLIENT, DATA, "give this party's --certificate"),
    (CLIENT, party("localhost", *DATA), "no client's of this authority"),
    (CLIENT, party("alice0", "--server=here"), "write HOST:PORT"),
    (CLIENT, party("alice0", "--predict", "--init_seed=1"), "--init_seed does nothing here"),
  ],
)
def test_bad_input_is_one_sentence(made, capsys, which, options, text):
  assert run(*which, *options) == 2
  err = capsys.readouterr().err
  assert text in err
  assert err.count("\n") == 1
