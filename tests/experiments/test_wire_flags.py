"""The flags of server, client and certificates, and the files that they write."""

import dataclasses
import errno
import itertools
import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.wire_binaries import CLIENT, DATA, SERVER, SHAPE, party, run

from fedjax_norm import host_memory
from fedjax_norm.cli import app
from fedjax_norm.cli.wire import build, certificates, client, evaluation, server
from fedjax_norm.cli.wire.options import CertificatesFlags, ClientFlags, ServerFlags
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("compiled_once")


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
def test_a_client_refuses_settings_that_are_impossible_or_differ_from_its_flags(changes, text):
  settings, mine = build.server_settings(ServerFlags(cut="conv1")), ClientFlags(cut="conv1")
  assert build.apply_server_settings(mine, settings).rounds == mine.rounds
  with pytest.raises(UserError, match=text):
    build.build_network(build.apply_server_settings(mine, {**settings, **changes}), (6, 6, 1), 4)


def test_a_batch_of_the_existing_examples_must_fit_a_message():
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


def test_predictions_are_written_before_the_client_reports_the_end(tmp_path, monkeypatch):
  finals = []

  def ask(call, size, waiting, final=False):
    finals.append(final)
    return SimpleNamespace(hand_over=SimpleNamespace(step=3), readable=True, state="done")

  def full(path, data):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

  config = ClientFlags(data=DATA[0].partition("=")[2], clients=1, predict=True)
  task = client.make_task(config)
  monkeypatch.setattr(evaluation, "ask_turn", ask)
  monkeypatch.setattr(evaluation, "join", lambda *_: None)
  monkeypatch.setattr(evaluation, "check_messages", lambda *_: None)
  monkeypatch.setattr(evaluation, "compute_logits", lambda *_: np.zeros((8, 4)))
  hand_overs = SimpleNamespace(announcement=b"", obtain=lambda hand_over: ())
  call = SimpleNamespace(once=lambda *_: None)
  session = evaluation.Session(config, task, SimpleNamespace(), None, hand_overs, call)
  folder = SimpleNamespace(path=tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(evaluation, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
      evaluation.predict(session, folder)
  assert True not in finals
  evaluation.predict(session, folder)
  assert finals[-1]


@pytest.mark.parametrize("option", [{"whiten": "zca"}, {"subtract": "image"}])
def test_parties_do_not_whiten_with_different_images(option):
  whole = ClientFlags(data=DATA[0].partition("=")[2], **option)
  for config in (whole, dataclasses.replace(whole, predict=True)):
    with pytest.raises(UserError, match="would feed one network differently"):
      client.make_task(config)
  share = dataclasses.replace(whole, client_id=0, clients=2, partition="iid")
  assert client.make_task(share).num_classes == 4


def test_a_client_without_partitioned_data_accepts_every_kind_of_hand_over():
  flags = ServerFlags(cut="conv1", hand_over="peer", handed_over="updates")
  mine = ClientFlags(data=DATA[0].partition("=")[2], cut="conv1")
  mine = build.apply_server_settings(mine, build.server_settings(flags))
  assert client.make_task(mine).data.num_clients == 1


def test_a_round_that_is_reported_again_replaces_its_row(tmp_path):
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
    (SERVER, party("localhost", *SHAPE, "--rounds=3000", "--local_steps=1000000"), "be counted"),
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
