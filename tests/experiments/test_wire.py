"""Runs of server and clients, some as real processes that are killed."""

import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from helpers.binaries import free_port
from helpers.wire_binaries import CLIENT, DATA, SERVER, SHAPE, TRAINING, party, run, together
from helpers.wire_world import by_messages

from fedjax_norm.cli.flags import define, parse
from fedjax_norm.cli.split_options import ALGORITHM
from fedjax_norm.cli.train import load, prepare
from fedjax_norm.cli.wire import certificates
from fedjax_norm.cli.wire.options import CertificatesFlags
from fedjax_norm.errors import UserError
from fedjax_norm.split.messages import ACTIVATION
from fedjax_norm.training.storage.run_folder import read_config
from fedjax_norm.wire.protocol import frames, identity
from fedjax_norm.wire.protocol.caller import Caller
from fedjax_norm.wire.protocol.frames import Frame
from fedjax_norm.wire.protocol.step_ids import step_id

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.mark.long
def test_a_killed_server_resumes_to_the_bits_of_the_simulation(made, started, capsys):
  """The server is a process that is killed in the middle of training; the same flags resume it."""
  address = f"localhost:{free_port()}"
  server = party("localhost", *SHAPE, *TRAINING, f"--listen={address}")
  shared = *DATA, f"--server={address}", "--cut=conv1"
  first = started("split_server", *server)
  mine = party("alice0", *shared, "--client_id=0", "--init_seed=0")
  other = party("alice1", *shared, "--client_id=1")
  with together((*CLIENT, *mine), (*CLIENT, *other)) as codes:
    while not Path("localhost/state.frame").exists():
      assert first.poll() is None, first.communicate()
      time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert run(*SERVER, *server) == 0
  assert codes == [0, 0]
  out = capsys.readouterr().out
  assert "0 passed on" in out
  assert "resuming after turn" in out
  assert "round 4 of 4 is over, training loss" in out
  values = flags.FlagValues()
  kind = ALGORITHM.config("split")
  define(kind, values)
  values(["simulation", *DATA, *TRAINING])
  config, task = prepare(config := parse(kind, values), load(config))
  rates = config.rates(config.rounds)
  simulated = by_messages(task, config, rates)
  for part in ("localhost/body.npz", "alice0/head.npz", "alice1/head.npz"):
    found = np.load(part)
    assert len(found) >= 5
    for name in found:
      np.testing.assert_array_equal(found[name], simulated[name], name)
  rows = Path("localhost/metrics.csv").read_text().splitlines()
  assert [row.split(",")[:4] for row in rows[1:]] == [["2", "4", "0", "4"], ["4", "8", "0", "8"]]
  # Both folders have the common options, with the same values, and those of one side only.
  at_server, at_client = (read_config(Path(name)) for name in ("localhost", "alice0"))
  assert {**at_server, **at_client} == {**at_client, **at_server}
  assert (at_client["norm"], at_client["cut"], at_client["rounds"]) == ("bn", "conv1", 4)
  assert at_client["data"] == DATA[0].partition("=")[2]
  assert "data" not in at_server
  assert "members" not in at_client


def intrusions() -> list[tuple[str, bytes, str]]:
  """Returns (method, message, error) of a party that has a certificate and no turn."""
  good = Frame(ACTIVATION, step_id(1, 0), {"['activation']": np.zeros((2, 6, 6, 1), np.float16)})
  whole = frames.encode(good)
  return [
    (
      "Infer",
      whole,
      "is float16.* is expected|fetch it again",
    ),  # the second if another turn is over
    ("Forward", b"", "truncated"),
    ("Forward", b"x" * 2**16, "does not belong to this protocol"),
    ("Forward", whole[:-1], "is truncated"),
    ("Forward", bytes(11 * 10**5), "larger than the other end accepts"),
    ("Forward", whole, "it is not 'carol'"),
    ("Put", whole, "should be a sealed hand-over"),
  ]


@pytest.mark.long
def test_a_client_that_is_killed_in_its_turn_and_intruders(made, started, capsys):
  """The server, the client that is killed and a party of another authority are processes."""
  address = f"localhost:{free_port()}"
  how = [
    "--rounds=2",
    "--batch_size=4",
    "--norm=gn",
    "--cut=conv1",
    "--patience=3",
    "--max_megabytes=1",
  ]
  server = started("split_server", *party("localhost", *SHAPE, *how, f"--listen={address}"))
  shared = *DATA, f"--server={address}", "--cut=conv1"
  doomed = started("split_client", *party("alice1", *shared, "--client_id=1"))
  certificates.main(CertificatesFlags(output="others", clients="eve"))
  forged = ("--certificate=others/eve.pem", "--key=others/eve.key", "--workdir=eve")
  eve = started("split_client", *shared, *forged, "--authority=others/authority.pem", "--predict")
  with together((*CLIENT, *party("alice0", *shared, "--client_id=0"))) as codes:
    while not Path("localhost/state.frame").exists():  # alice0's turn is over, alice1's is next
      assert server.poll() is None, server.communicate()
      time.sleep(0.01)
    doomed.send_signal(signal.SIGKILL)
    files = (f"certificates/{name}" for name in ("authority.pem", "carol.pem", "carol.key"))
    with Caller(address, identity.load(*files), 2**20, 5.0) as carol:
      for method, data, words in intrusions():
        with pytest.raises(UserError, match=words):
          carol(method, data)
    doomed.communicate()
  assert codes == [0], capsys.readouterr().err
  printed, _ = server.communicate()
  assert server.returncode == 0, printed
  assert printed.count("alice1 does not answer; its turn passes on.") == 2
  printed, _ = eve.communicate()
  assert eve.returncode in (1, 2)
  assert "Traceback" not in printed
  assert "certificate" in printed


def test_a_third_party_predicts_in_the_u_shape(made, capsys):
  address = f"localhost:{free_port()}"
  how = ("--rounds=1", "--batch_size=8", "--norm=gn", "--cut=conv1", "--tail=conv3")
  peer = ("--hand_over=peer", "--handed_over=updates", f"--listen={address}")
  shared = (*DATA, f"--server={address}", *how[-2:])
  with together(
    (*SERVER, *party("localhost", *SHAPE, *how, *peer)),
    (*CLIENT, *party("alice0", *shared, "--client_id=0")),
    (*CLIENT, *party("alice1", *shared, "--client_id=1")),
    (*CLIENT, *party("carol", *shared, "--predict")),
  ) as codes:
    pass
  out, err = capsys.readouterr()
  assert codes == [0, 0, 0, 0], err
  assert "tiny is cut after conv1; labels stay here." in out
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
  files = list(Path("alice1").glob("hand_over-*.frame"))
  assert len(files) == 1
  parts = [Path(f"alice{i}/{part}.npz") for i in range(2) for part in ("head", "tail")]
  for path in (*files, *parts, *map(Path, ("localhost/state.frame", "localhost/members.json"))):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
