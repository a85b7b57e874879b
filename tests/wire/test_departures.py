"""Parties that are slow, that vanish and that come back."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import wire_world
from helpers.wire_world import STEPS, assert_same, begun, held, request, turn_of, world, yours

from fedjax_norm import tree_leaves
from fedjax_norm.errors import LostError, UserError
from fedjax_norm.wire.client import client as alices
from fedjax_norm.wire.client import hand_overs, queries
from fedjax_norm.wire.protocol import frames, private_files
from fedjax_norm.wire.protocol.transport import FailedError, OutOfOrderError, RefusedError
from fedjax_norm.wire.protocol.turns import step_id


@pytest.mark.parametrize("peer", [False, True])
def test_a_client_that_vanishes_costs_its_own_turn_alone(tmp_path, peer):
  with world(tmp_path, peer=peer) as w:
    alice, other, _ = begun(w)
    turned = alices._turn(alice, yours(alice, other))
    alice.keeper.hand_over(turned.own, turned.step)
    asked = queries.ask(other.call, wire_world.LIMIT, waiting=True)
    assert asked.state == "yours"
    before = w.bob.state.kept
    other.call("Forward", frames.encode(request(w, turn=1)))  # and is not heard of again
    assert w.bob.state.working.part is not before.part
    assert queries.ask(alice.call, wire_world.LIMIT, waiting=True).state == "wait"
    w.later += 25
    asked = queries.ask(alice.call, wire_world.LIMIT, waiting=True)
    assert (asked.state, asked.turn, asked.handed.sender) == ("yours", 2, "alice0")
    assert_same(
      {
        k: np.asarray(v) for k, v in tree_leaves.flatten(w.bob.state.working.part.variables).items()
      },
      {k: np.asarray(v) for k, v in tree_leaves.flatten(before.part.variables).items()},
    )
    with pytest.raises(OutOfOrderError, match="not 'alice1'"):
      other.call("Forward", frames.encode(request(w, 1, turn=1)))
    with pytest.raises(OutOfOrderError, match="not 'alice1'"):
      other.keeper.hand_over(turned.own, step_id(2, 0))
    # Both go on: the one that came back has the last turn, from what the other has handed over.
    first, second = w.train(alice, other)
    assert w.bob.state.kept.totals.passed == 1
    assert w.bob.state.kept.totals.turns == 3
    assert_same(held(first.own, w.bob), held(second.own, w.bob))


def test_a_log_on_a_full_disk_stops_the_server_with_one_sentence(tmp_path, monkeypatch):
  def full(text):
    raise OSError(28, "No space left on device")

  with world(tmp_path) as w:
    _, other, _ = begun(w)
    monkeypatch.setattr(w.bob, "_say", full)
    w.later += 25
    with pytest.raises(FailedError, match="No space left on device"):
      queries.ask(other.call, wire_world.LIMIT, waiting=True)
    assert w.bob.failure


def test_a_turn_waits_for_the_only_client_that_can_have_it(tmp_path):
  with world(tmp_path) as w:
    alice = w.alice("alice0")
    assert queries.ask(alice.call, wire_world.LIMIT, waiting=True).state == "wait"
    w.later += 25  # alice1 never joined
    assert queries.ask(alice.call, wire_world.LIMIT, waiting=True).state == "yours"
    w.later += 100  # nobody else is there, and what nobody takes over is not lost
    assert queries.ask(alice.call, wire_world.LIMIT, waiting=True).state == "yours"
    assert w.bob.state.kept.totals.passed == 0


@pytest.mark.parametrize("peer", [False, True])
def test_parties_that_are_killed_go_on_to_the_same_bits(tmp_path, plain, peer):
  with world(tmp_path, peer=peer) as w:
    killed = []

    def before_put(turned):
      if len(killed) < 2:  # Bob dies, with steps that were not handed over
        killed.append(turned.round)
        w.restart()

    w.before_put = before_put
    alice, other = w.alice("alice0"), w.alice("alice1")
    turned = alices._turn(alice, yours(alice, other))
    alice.keeper.hand_over(turned.own, turned.step)
    again = w.alice("alice0")  # a new process, with the old one's folder
    first, second = w.train(again, other)
    assert killed == [0, 1] or killed == [0, 0]
    assert_same(held(first.own, w.bob), plain)
    assert_same(held(second.own, w.bob), plain)


def test_a_damaged_folder_of_bobs_is_refused(tmp_path):
  with world(tmp_path) as w:
    alice, _, _ = begun(w)
    own = w.network.own(w.network.begin(alice.start))
    for step in range(STEPS):
      alice.call("Forward", frames.encode(request(w, step)))
    alice.keeper.hand_over(own, step_id(1, 0))
    path = tmp_path / "bob" / "state.frame"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="is damaged"):
      w.restart()
    (tmp_path / "bob" / "members.json").write_text("{")
    with pytest.raises(UserError, match=r"members\.json is damaged"):
      w.restart()


def test_a_server_that_restarts_keeps_its_run_and_waits_for_its_members(tmp_path):
  with world(tmp_path) as w:
    early = w.alice("alice0", join=False)
    w.restart()  # before anybody has joined
    queries.join(early.call, early.keeper.announcement, 0, 7, "")
    alice, other = w.alice("alice0"), w.alice("alice1")
    w.train(alice, other)
    alices.stay(alice, 0, last=False)
    w.restart()
    assert not w.bob.deserted()  # alice1 has not said that it has the end
    alices.stay(other, 0, last=False)
    assert w.bob.deserted()
    w.restart()
    assert w.bob.deserted()
    w.alice("alice1")  # comes back
    assert not w.bob.deserted()
    w.restart()
    w.later += 25
    w.bob._state = w.bob.state._replace(began=w.bob.state.began - 25)
    assert w.bob.deserted()


def test_a_lost_last_peer_is_not_waited_for_for_ever(tmp_path):
  with world(tmp_path, peer=True) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    w.train(alice, other)
    sender, late = (other, alice) if w.bob.state.kept.handed.sender == "alice1" else (alice, other)
    sender.keeper._path(w.bob.state.kept.handed.step).unlink()
    name = late.keeper._identity.name
    members = w.bob.state.roll.members
    members[sender.keeper._identity.name] = members[name]._replace(address="[::1]:1")
    asked = len(w.seen)
    late = late._replace(patience=0.2)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(hand_overs, "_PEER_PATIENCE", 0.1)
      with pytest.raises(LostError, match="all turns are over"):
        alices.train(late, wire_world.nothing, wire_world.nothing, wire_world.nothing)
    assert len(w.seen) - asked < 12


def test_whoever_waits_for_the_last_weights_asks_now_and_then(tmp_path):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    w.train(alice, other)
    w.bob._state = w.bob.state._replace(readers=frozenset())
    asked = len(w.seen)
    with pytest.raises(LostError, match="all turns are over"):
      alices.train(alice._replace(patience=0.2), *3 * [wire_world.nothing])
    assert len(w.seen) - asked < 15


def test_a_full_disk_costs_no_turn(tmp_path, monkeypatch):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    turn_of(alice, other)
    turned = alices._turn(other, yours(other, alice))

    def full(path, data):
      raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
      patch.setattr(private_files, "replace", full)
      with pytest.raises(RefusedError, match="cannot write"):
        other.keeper.hand_over(turned.own, turned.step)
    other.keeper.hand_over(turned.own, turned.step)
    assert [round for round, _ in w.rounds] == [1, 1]
    assert w.bob.state.kept.turn == 2


def test_a_turn_whose_answer_was_lost_keeps_its_scores(tmp_path):
  with world(tmp_path) as w:
    alice, other, _ = begun(w)
    turned = alices._turn(alice, yours(alice, other))

    def lost(method, *request):
      answer = alice.call(method, *request)
      if method == "Put":
        raise LostError("the answer is lost.")
      return answer

    def told():
      raise EOFError

    alice.keeper._call = lost
    with pytest.raises(LostError, match="the answer is lost"):
      alice.keeper.hand_over(turned.own, turned.step, scores={"round": 1})
    again = w.alice("alice0")
    assert again.keeper.progress.scores is None
    with pytest.raises(EOFError):
      alices.train(again, wire_world.nothing, told, wire_world.nothing)
    assert again.keeper.progress.scores == {"round": 1}
    assert w.alice("alice0").keeper.progress == again.keeper.progress


def test_a_client_that_computes_for_long_keeps_its_turn(tmp_path):
  """It compiles, say: a turn is for whoever is there, and Bob hears that she is."""
  with world(tmp_path) as w:
    alice, other = w.alice("alice0")._replace(patience=0.2), w.alice("alice1")

    def long(step):
      for _ in range(3):  # each shorter than Bob's patience, all of them longer
        w.later += 0.6 * w.setting.patience
        heard = w.bob.state.seen["alice0"]
        until = time.monotonic() + 10
        while w.bob.state.seen["alice0"] == heard and time.monotonic() < until:
          time.sleep(0.01)
        assert queries.ask(other.call, wire_world.LIMIT, waiting=True).state == "wait"
      return alice.draw(step)

    w.train(alice._replace(draw=long), other)
    assert w.bob.state.kept.totals.passed == 0


def test_a_server_that_is_lost_in_a_turn_is_waited_for_once(tmp_path):
  with world(tmp_path) as w:
    alice, _, _ = begun(w)

    def lost(step):
      raise LostError("has been waited for.")

    with pytest.raises(LostError, match="has been waited for"):
      alices.train(alice._replace(draw=lost), *3 * [wire_world.nothing])


def test_an_interrupt_waits_for_no_silent_server():
  asked, go = threading.Event(), threading.Event()

  def once(method, request):
    asked.set()
    go.wait(10)

  def work():
    with alices.at_work(SimpleNamespace(once=once), 0.2):
      assert asked.wait(10)
      raise KeyboardInterrupt

  began = time.monotonic()
  with pytest.raises(KeyboardInterrupt):
    work()
  assert time.monotonic() - began < 5
  go.set()
