"""The two sides of a wire and their certificates, some as real processes that are killed."""

import dataclasses
import errno
import itertools
import os
import re
import signal
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from helpers.binaries import free_port
from helpers.wire_binaries import CLIENT, DATA, SERVER, SHAPE, TRAINING, party, run, together
from helpers.wire_world import by_messages

from fedjax_norm import host_memory
from fedjax_norm.cli import app
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.cli.split_options import ALGORITHM
from fedjax_norm.cli.train import load, prepare
from fedjax_norm.cli.wire import build, certificates, client, evaluation, server
from fedjax_norm.cli.wire.options import CertificatesFlags, ClientFlags, ServerFlags
from fedjax_norm.errors import UserError
from fedjax_norm.split.messages import ACTIVATION
from fedjax_norm.training.storage.run_folder import RunFolder, read_config
from fedjax_norm.wire.protocol import frames, identity
from fedjax_norm.wire.protocol.caller import Caller
from fedjax_norm.wire.protocol.frames import Frame
from fedjax_norm.wire.protocol.step_ids import step_id

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.mark.long
def test_a_killed_server_goes_on_to_the_bits_of_the_simulation(made, started, capsys):
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
  # What the folders say of a run is what both sides were told of it, and no more.
  bob, alice = (read_config(Path(name)) for name in ("localhost", "alice0"))
  assert {**bob, **alice} == {**alice, **bob}
  assert (alice["norm"], alice["cut"], alice["rounds"]) == ("bn", "conv1", 4)
  assert alice["data"] == DATA[0].partition("=")[2]
  assert "data" not in bob
  assert "members" not in alice


def intrusions() -> list[tuple[str, bytes, str]]:
  """(method, message, what is said against it) of somebody who has a certificate and no turn."""
  good = Frame(ACTIVATION, step_id(1, 0), {"['activation']": np.zeros((2, 6, 6, 1), np.float16)})
  whole = frames.encode(good)
  return [
    ("Infer", whole, "is float16.* is expected|fetch it again"),  # if another turn is over by now
    ("Forward", b"", "truncated"),
    ("Forward", b"x" * 2**16, "does not belong to this protocol"),
    ("Forward", whole[:-1], "is truncated"),
    ("Forward", bytes(11 * 10**5), "larger than the other end accepts"),
    ("Forward", whole, "it is not 'carol'"),
    ("Put", whole, "should be a sealed hand-over"),
  ]


@pytest.mark.long
def test_a_client_that_is_killed_in_its_turn_and_bad_company(made, started, capsys):
  """A server, and a client that dies in the middle of its turn, are processes; so is a stranger."""
  address = f"localhost:{free_port()}"
  how = (
    "--rounds=2",
    "--batch_size=4",
    "--norm=gn",
    "--cut=conv1",
    "--patience=3",
    "--max_megabytes=1",
  )
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
    me = identity.load(
      "certificates/authority.pem", "certificates/carol.pem", "certificates/carol.key"
    )
    with Caller(address, me, 2**20, 5.0) as carol:
      for method, data, words in intrusions():
        with pytest.raises(UserError, match=words):
          carol(method, data)
    doomed.communicate()
  assert codes == [0], capsys.readouterr().err
  told, _ = server.communicate()
  assert server.returncode == 0, told
  assert told.count("alice1 does not answer; its turn passes on.") == 2
  told, _ = eve.communicate()
  assert eve.returncode in (1, 2)
  assert "Traceback" not in told
  assert "certificate" in told


def test_a_third_party_predicts_in_the_u_shape(made, capsys):
  address = f"localhost:{free_port()}"
  how = ("--rounds=1", "--batch_size=8", "--norm=gn", "--cut=conv1", "--tail=conv3")
  peer = ("--hand_over=peer", "--handed_over=updates", f"--listen={address}")
  shared = (*DATA, f"--server={address}", *how[-2:])
  with together(
    (ServerFlags, server.main, *party("localhost", *SHAPE, *how, *peer)),
    (ClientFlags, client.main, *party("alice0", *shared, "--client_id=0")),
    (ClientFlags, client.main, *party("alice1", *shared, "--client_id=1")),
    (ClientFlags, client.main, *party("carol", *shared, "--predict")),
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
  kept = list(Path("alice1").glob("hand_over-*.frame"))
  assert len(kept) == 1
  parts = [Path(f"alice{i}/{part}.npz") for i in range(2) for part in ("head", "tail")]
  for path in (*kept, *parts, *map(Path, ("localhost/state.frame", "localhost/members.json"))):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_certificates_are_never_overwritten(made):
  before = Path("certificates/alice0.key").read_bytes()
  again = CertificatesFlags(clients="alice2,alice0")
  with pytest.raises(UserError, match=r"already exists and is not overwritten"):
    certificates.main(again)
  assert Path("certificates/alice0.key").read_bytes() == before
  assert not Path("certificates/alice2.key").exists()
  for wrong, text in (
    (CertificatesFlags(), "no clients are given"),
    (CertificatesFlags(output="x", clients="a,a"), "same name"),
    (CertificatesFlags(output="x", clients="localhost"), "same name"),
    (CertificatesFlags(output="x", clients="a b"), "cannot be a client's name"),
    (CertificatesFlags(output="x", clients="a", server="-"), "neither a host name nor"),
    (CertificatesFlags(output="x", clients="a", days=0), "at least 1"),
    (CertificatesFlags(output="x", clients="a", days=10**8), "at most 36,500"),
    (CertificatesFlags(output="x", clients="authority"), "same name, 'authority'"),
    (CertificatesFlags(output="x", clients="Authority"), "same name, 'authority'"),
    (CertificatesFlags(output="x", clients="alice,Alice"), "same name, 'alice'"),
    (CertificatesFlags(output="x", clients="a", server="b,A"), "same name, 'a'"),
    (CertificatesFlags(output="x", clients="a", server="authority"), "same name"),
    (CertificatesFlags(output="x", clients="../a"), "cannot be a client's name"),
    (CertificatesFlags(output="x", clients="a" * 64), "cannot be a client's name"),
    (CertificatesFlags(output="x", clients="a", server=""), "'' is neither"),
    (CertificatesFlags(output="x", clients="a", server="a" * 64), "is neither"),
    (CertificatesFlags(output="x", clients="a", server="fe80::1%/../b"), "is neither"),
    (CertificatesFlags(output="x", clients="a", server=".".join(["b" * 40] * 7)), "is neither"),
    (CertificatesFlags(output="x", clients="a", server=".".join(["b" * 40] * 2)), "too long"),
  ):
    with pytest.raises(UserError, match=text):
      certificates.main(wrong)
  assert not Path("x").exists()


def test_certificates_on_a_full_disk_leave_nothing_half_made(made, monkeypatch, capsys):
  sync, config = os.fsync, CertificatesFlags(output="full", clients="alice0")
  for number in range(1, 6):
    count = itertools.count(1)

    def full(descriptor, count=count, number=number):
      if next(count) == number:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      sync(descriptor)

    with monkeypatch.context() as patch:
      patch.setattr(os, "fsync", full)
      assert app.guard(lambda: certificates.main(config)) == 1
    assert re.fullmatch(r"error: full/\S* cannot be .*No space left.*\n", capsys.readouterr().err)
    assert not list(Path("full").iterdir())
  certificates.main(config)
  modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path("full").iterdir()}
  assert modes == {
    name: 0o600 if name.endswith(".key") else 0o644
    for name in ("authority.pem", "localhost.key", "localhost.pem", "alice0.key", "alice0.pem")
  }


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"cut": "conv3"}, "has --cut=conv3 and this client has --cut=conv1"),
    ({"tail": "conv3"}, "has --tail=conv3 and this client has no --tail"),
    ({"cut": None}, "has no --cut"),
    ({"rounds": "many"}, "sends --rounds='many', an impossible value"),
    ({"lr": "x"}, "an impossible value"),
    ({"lr": float("nan")}, "an impossible value"),
    ({"batch_size": True}, "an impossible value"),
    ({"norm": "other"}, "an impossible value"),
    ({"batch_size": -1}, "must be at least 1"),
    ({"local_steps": 2**20}, "fewer than 1,048,576 steps"),
    ({"more": 1}, "use one version"),
  ],
)
def test_a_client_takes_no_settings_that_cannot_be_or_that_its_user_denies(changes, text):
  told = build.server_settings(ServerFlags(cut="conv1"))
  mine = ClientFlags(cut="conv1")
  assert build.apply_server_settings(mine, told).rounds == mine.rounds
  with pytest.raises(UserError, match=text):
    build.build_network(build.apply_server_settings(mine, {**told, **changes}), (6, 6, 1), 4)


def test_a_minibatch_must_fit_a_message_with_the_rows_that_it_has():
  config = ClientFlags(cut="conv1", norm="gn", batch_size=100_000, max_megabytes=1)
  network = build.build_network(config, (6, 6, 1), 4)
  build.check_messages(config, network, 100)
  with pytest.raises(UserError, match="cut elsewhere"):
    build.check_messages(config, network, 20_000)


def test_a_client_counts_its_steps_before_it_joins():
  config = ClientFlags(rounds=3000, eval_every=1)
  assert len(build.make_rates(config, 1)) == 3000
  with pytest.raises(UserError, match="steps that can be counted"):
    build.make_rates(config, 2**20 - 1)


def test_predictions_are_on_the_disk_before_the_server_hears_of_the_end(tmp_path, monkeypatch):
  asked = []

  def ask(call, size, waiting, final=False):
    asked.append(final)
    hand_over = SimpleNamespace(step=3)
    return SimpleNamespace(hand_over=hand_over, readable=True, state="done")

  def full(path, data):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

  config = ClientFlags(data=DATA[0].partition("=")[2], clients=1, predict=True)
  task = client.make_task(config)
  monkeypatch.setattr(evaluation, "ask_turn", ask)
  monkeypatch.setattr(evaluation, "join", lambda *_: None)
  monkeypatch.setattr(evaluation, "check_messages", lambda *_: None)
  monkeypatch.setattr(evaluation, "compute_logits", lambda *_: np.zeros((8, 4)))
  hand_overs = SimpleNamespace(announcement=b"", obtain=lambda handed: ())
  call = SimpleNamespace(once=lambda *_: None)
  ready = evaluation.Session(config, task, SimpleNamespace(), None, hand_overs, call)
  folder = SimpleNamespace(path=tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(evaluation, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
      evaluation.predict(ready, folder)
  assert True not in asked
  evaluation.predict(ready, folder)
  assert asked[-1]


@pytest.mark.parametrize("option", [{"whiten": "zca"}, {"subtract": "image"}])
def test_parties_do_not_each_whiten_by_images_of_their_own(option):
  own = ClientFlags(data=DATA[0].partition("=")[2], **option)
  for config in (own, dataclasses.replace(own, predict=True)):
    with pytest.raises(UserError, match="would feed one network differently"):
      client.make_task(config)
  share = dataclasses.replace(own, client_id=0, clients=2, partition="iid")
  assert client.make_task(share).num_classes == 4


def test_how_weights_are_handed_over_matters_to_a_client_with_data_of_its_own():
  """It is one of several, and its task is of itself alone."""
  told = build.server_settings(ServerFlags(cut="conv1", hand_over="peer", handed_over="updates"))
  mine = build.apply_server_settings(ClientFlags(data=DATA[0].partition("=")[2], cut="conv1"), told)
  assert client.make_task(mine).data.num_clients == 1


def test_a_round_that_is_told_again_replaces_its_row(tmp_path):
  with RunFolder.open(tmp_path, {}) as folder:
    for number, value in ((1, 1), (2, 2), (2, 3)):
      server.append(folder, {"round": number, "turns": value})
    assert folder.rows() == [{"round": 1, "turns": 1}, {"round": 2, "turns": 3}]


@pytest.mark.parametrize(
  ("which", "options", "text"),
  [
    (SERVER, party("localhost"), "give the names on the clients' certificates"),
    (SERVER, party("localhost", "--client_names=a,a"), "give the names"),
    (SERVER, party("localhost", "--client_names=a,,b"), "give the names"),
    (SERVER, party("localhost", "--client_names=a"), "give height, width and channels"),
    (SERVER, party("localhost", SHAPE[0], SHAPE[2]), "number of --classes"),
    (SERVER, (*SHAPE, "--cut=conv1"), "give this party's --certificate"),
    (SERVER, party("localhost", *SHAPE, "--max_megabytes=2148"), "at least 1 and at most 2147"),
    (SERVER, party("localhost", *SHAPE, "--authority=certificates/alice0.key"), "as --authority"),
    (SERVER, party("localhost", *SHAPE, f"--rounds={2**31 - 1}"), "choose fewer rounds"),
    (
      SERVER,
      party("localhost", *SHAPE[1:], f"--image_shape=9x9x{4 * 10**7}", "--batch_size=1"),
      "a step needs",
    ),
    (SERVER, party("localhost", *SHAPE, "--norm=wn"), "weight normalization is initialized"),
    (SERVER, party("localhost", *SHAPE, "--norm=fixbn"), "FixBN changes the network"),
    (SERVER, party("localhost", *SHAPE, "--lr_schedule=plateau"), "another schedule"),
    (SERVER, party("localhost", *SHAPE, "--listen=here"), "write HOST:PORT"),
    (SERVER, party("localhost", *SHAPE, "--listen=here:²"), "write HOST:PORT"),
    (SERVER, party("localhost", *SHAPE[1:], "--image_shape=²x6x1"), "give height, width"),
    (SERVER, party("localhost", *SHAPE[1:], f"--image_shape={10**8}x9999x1"), "this machine has"),
    (
      SERVER,
      party("localhost", *SHAPE, "--rounds=3000", "--local_steps=1000000"),
      "steps that can be counted",
    ),
    (SERVER, party("localhost", *SHAPE, "--linger=1e10"), "at most 31536000"),
    (CLIENT, party("alice0", "--patience=1e10"), "at most 31536000"),
    (CLIENT, DATA, "give this party's --certificate"),
    (CLIENT, party("localhost", *DATA), "not a client certificate of this authority"),
    (CLIENT, party("alice0", "--server=here"), "write HOST:PORT"),
    (CLIENT, party("alice0", "--server=localhost:0"), "a port from 1 to"),
    (CLIENT, party("alice0", "--predict", "--init_seed=1"), "--init_seed has no effect"),
  ],
)
def test_bad_input_is_one_sentence(made, capsys, monkeypatch, which, options, text):
  monkeypatch.setattr(host_memory, "total_bytes", lambda: 2**34)
  assert run(*which, *options) == 2
  err = capsys.readouterr().err
  assert text in err
  assert err.count("\n") == 1
