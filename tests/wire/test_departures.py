"""Parties that are slow, that disappear and that return."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.wire_world import (
  STEPS,
  ask,
  assert_same,
  begun,
  nothing,
  request,
  turn_of,
  world,
  yours,
)

from fedjax_norm import tree_leaves
from fedjax_norm.errors import LostError, UserError
from fedjax_norm.wire.client import hand_overs, queries, training
from fedjax_norm.wire.protocol import frames, private_files
from fedjax_norm.wire.protocol.remote_errors import FailedError, OutOfOrderError, RefusedError
from fedjax_norm.wire.protocol.step_ids import step_id


@pytest.mark.parametrize("peer", [False, True])
def test_a_client_that_disappears_loses_only_its_turn(tmp_path, peer):
  with world(tmp_path, peer=peer) as w:
    client, other, _ = begun(w)
    turn = training._take_turn(client, yours(client, other))
    client.hand_overs.hand_over(turn.parts, turn.next_step)
    info = ask(other)
    assert info.state == "yours"
    before = w.state.committed
    other.call("Forward", frames.encode(request(w, turn=1)))  # its last request
    assert w.state.active.part is not before.part
    assert ask(client).state == "wait"
    w.later += 25
    info = ask(client)
    assert (info.state, info.turn, info.hand_over.sender) == ("yours", 2, "alice0")
    assert_same(
      {k: np.asarray(v) for k, v in tree_leaves.flatten(w.state.active.part.variables).items()},
      {k: np.asarray(v) for k, v in tree_leaves.flatten(before.part.variables).items()},
    )
    with pytest.raises(OutOfOrderError, match="not 'alice1'"):
      other.call("Forward", frames.encode(request(w, 1, turn=1)))
    with pytest.raises(OutOfOrderError, match="not 'alice1'"):
      other.hand_overs.hand_over(turn.parts, step_id(2, 0))
    # The client that returned gets the last turn, with the hand-over of the other.
    first, second = w.train(client, other)
    assert w.state.committed.totals.passed == 1
    assert w.state.committed.totals.turns == 3
    assert_same(w.variables(first.parts), w.variables(second.parts))


def test_output_to_a_full_disk_stops_the_server_with_one_sentence(tmp_path, monkeypatch):
  def full(text):
    raise OSError(28, "No space left on device")

  with world(tmp_path) as w:
    _, other, _ = begun(w)
    monkeypatch.setattr(w.server, "_notify", full)
    w.later += 25
    with pytest.raises(FailedError, match="No space left on device"):
      ask(other)
    assert w.server.failure


def test_a_turn_waits_for_the_only_client_that_can_have_it(tmp_path):
  with world(tmp_path) as w:
    client = w.client("alice0")
    assert ask(client).state == "wait"
    w.later += 25  # alice1 never joined
    assert ask(client).state == "yours"
    w.later += 100  # no other client can take the turn, so it does not pass on
    assert ask(client).state == "yours"
    assert w.state.committed.totals.passed == 0


@pytest.mark.parametrize("peer", [False, True])
def test_parties_that_are_killed_resume_to_the_same_bits(tmp_path, plain, peer):
  with world(tmp_path, peer=peer) as w:
    killed = []

    def before_put(turn):
      if len(killed) < 2:  # the server dies, with steps without a hand-over
        killed.append(turn.round)
        w.restart()

    w.before_put = before_put
    client, other = w.client("alice0"), w.client("alice1")
    turn = training._take_turn(client, yours(client, other))
    client.hand_overs.hand_over(turn.parts, turn.next_step)
    again = w.client("alice0")  # a new process, with the folder of the old one
    first, second = w.train(again, other)
    assert killed == [0, 1] or killed == [0, 0]
    assert_same(w.variables(first.parts), plain)
    assert_same(w.variables(second.parts), plain)


def test_a_damaged_folder_of_the_server_is_refused(tmp_path):
  with world(tmp_path) as w:
    client, _, _ = begun(w)
    parts = w.network.client_parts(w.network.initial_parts(client.start))
    for step in range(STEPS):
      client.call("Forward", frames.encode(request(w, step)))
    client.hand_overs.hand_over(parts, step_id(1, 0))
    path = tmp_path / "server" / "state.frame"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="is damaged"):
      w.restart()
    (tmp_path / "server" / "members.json").write_text("{")
    with pytest.raises(UserError, match=r"members\.json is damaged"):
      w.restart()


def test_a_server_that_restarts_keeps_its_run_and_waits_for_its_members(tmp_path):
  with world(tmp_path) as w:
    early = w.client("alice0", join=False)
    w.restart()  # before anybody has joined
    queries.join(early.call, early.hand_overs.announcement, 0, 7, "")
    client, other = w.client("alice0"), w.client("alice1")
    w.train(client, other)
    training.stay(client, 0, last=False)
    w.restart()
    assert not w.server.finished()  # alice1 has not reported that it has the last hand-over
    training.stay(other, 0, last=False)
    assert w.server.finished()
    w.restart()
    assert w.server.finished()
    w.client("alice1")  # returns
    assert not w.server.finished()
    w.restart()
    w.later += 25
    w.server._state = w.state._replace(started=w.state.started - 25)
    assert w.server.finished()


def test_waiting_for_a_lost_last_peer_ends(tmp_path):
  with world(tmp_path, peer=True) as w:
    client, other = w.client("alice0"), w.client("alice1")
    w.train(client, other)
    last = w.state.committed.hand_over
    sender, late = (other, client) if last.sender == "alice1" else (client, other)
    sender.hand_overs._path(last.step).unlink()
    name = late.hand_overs._identity.name
    members = w.state.membership.members
    members[sender.hand_overs._identity.name] = members[name]._replace(address="[::1]:1")
    before = len(w.seen)
    late = late._replace(patience=0.2)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(hand_overs, "_PEER_PATIENCE", 0.1)
      with pytest.raises(LostError, match="all turns are over"):
        training.train(late, *3 * [nothing])
    assert len(w.seen) - before < 12


def test_a_client_that_waits_for_the_last_weights_pauses_between_requests(tmp_path):
  with world(tmp_path) as w:
    client, other = w.client("alice0"), w.client("alice1")
    w.train(client, other)
    w.server._state = w.state._replace(readers=frozenset())
    before = len(w.seen)
    with pytest.raises(LostError, match="all turns are over"):
      training.train(client._replace(patience=0.2), *3 * [nothing])
    assert len(w.seen) - before < 15


def test_a_full_disk_of_the_server_loses_no_turn(tmp_path, monkeypatch):
  with world(tmp_path) as w:
    client, other = w.client("alice0"), w.client("alice1")
    turn_of(client, other)
    turn = training._take_turn(other, yours(other, client))

    def full(path, data):
      raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
      patch.setattr(private_files, "replace", full)
      with pytest.raises(RefusedError, match="cannot write"):
        other.hand_overs.hand_over(turn.parts, turn.next_step)
    other.hand_overs.hand_over(turn.parts, turn.next_step)
    assert [round for round, _ in w.rounds] == [1, 1]
    assert w.state.committed.turn == 2


def test_a_turn_whose_answer_was_lost_keeps_its_scores(tmp_path):
  with world(tmp_path) as w:
    client, other, _ = begun(w)
    turn = training._take_turn(client, yours(client, other))

    def lost(method, *request):
      answer = client.call(method, *request)
      if method == "Put":
        raise LostError("the answer is lost.")
      return answer

    def after():
      raise EOFError

    client.hand_overs._call = lost
    with pytest.raises(LostError, match="the answer is lost"):
      client.hand_overs.hand_over(turn.parts, turn.next_step, scores={"round": 1})
    again = w.client("alice0")
    assert again.hand_overs.progress.scores is None
    with pytest.raises(EOFError):
      training.train(again, nothing, after, nothing)
    assert again.hand_overs.progress.scores == {"round": 1}
    assert w.client("alice0").hand_overs.progress == again.hand_overs.progress


def test_a_client_that_computes_for_long_keeps_its_turn(tmp_path):
  """For example it compiles; signs of life keep the turn."""
  with world(tmp_path) as w:
    client, other = w.client("alice0")._replace(patience=0.2), w.client("alice1")

    def long(step):
      for _ in range(3):  # each shorter than the server's patience, longer together
        w.later += 0.6 * w.settings.patience
        heard = w.state.last_heard["alice0"]
        until = time.monotonic() + 10
        while w.state.last_heard["alice0"] == heard and time.monotonic() < until:
          time.sleep(0.01)
        assert ask(other).state == "wait"
      return client.draw(step)

    w.train(client._replace(draw=long), other)
    assert w.state.committed.totals.passed == 0


def test_a_server_that_is_lost_in_a_turn_is_awaited_once(tmp_path):
  with world(tmp_path) as w:
    client, _, _ = begun(w)

    def lost(step):
      raise LostError("the server is lost.")

    with pytest.raises(LostError, match="the server is lost"):
      training.train(client._replace(draw=lost), *3 * [nothing])


def test_an_interrupt_does_not_wait_for_a_silent_server():
  called, go = threading.Event(), threading.Event()

  def once(method, request):
    called.set()
    go.wait(10)

  def work():
    with training.keep_alive(SimpleNamespace(once=once), 0.2):
      assert called.wait(10)
      raise KeyboardInterrupt

  began = time.monotonic()
  with pytest.raises(KeyboardInterrupt):
    work()
  assert time.monotonic() - began < 5
  go.set()
