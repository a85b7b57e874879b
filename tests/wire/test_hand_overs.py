"""Hand-overs: for whom they are, in which order, and by whom they were made."""

import jax
import numpy as np
import pytest
from helpers import wire_world
from helpers.wire_world import ROUNDS, STEPS, begun, request, task, turn_of, world, yours

from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.norm import Mode
from fedjax_norm.wire.client import client as alices
from fedjax_norm.wire.client import queries
from fedjax_norm.wire.client.hand_overs import StaleError
from fedjax_norm.wire.client.remote_steps import infer
from fedjax_norm.wire.protocol import frames, hand_over_bytes, seal
from fedjax_norm.wire.protocol.frames import OUTPUT, Frame
from fedjax_norm.wire.protocol.transport import OutOfOrderError
from fedjax_norm.wire.protocol.turns import step_id
from fedjax_norm.wire.server.store import Committed, Totals


@pytest.mark.parametrize("updates", [False, True])
def test_bob_keeps_hand_overs_that_he_cannot_read(tmp_path, updates):
  words = np.frombuffer(b"a seed..", np.uint32)
  seed = jax.random.wrap_key_data(words, impl="threefry2x32")
  with world(tmp_path, updates=updates) as w:
    alice = w.alice("alice0")._replace(start=seed)
    final, _ = w.train(alice, w.alice("alice1"))
    kernel = np.asarray(final.own[0].variables["params"]["Conv_0"]["kernel"]).tobytes()
    stored = (tmp_path / "bob" / "state.frame").read_bytes()
    assert kernel in frames.encode(Frame(OUTPUT, 0, frames.named(final.own)))
    if updates:
      assert b"a seed.." in hand_over_bytes.pack_updates(w.network, final.own, 0, alice.keeper.seed)
    for message in (stored, *(data for _, _, data in w.seen)):
      assert kernel not in message
      assert b"a seed.." not in message
    dense = np.asarray(w.bob.state.kept.part.variables["params"]["Dense_0"]["kernel"]).tobytes()
    assert dense in stored


def test_hand_overs_out_of_order_are_refused(tmp_path):
  with world(tmp_path) as w:
    alice, other, _ = begun(w)
    own = w.network.own(w.network.begin(alice.start))
    with pytest.raises(OutOfOrderError, match="step 0 of client 0"):  # no step is taken yet
      alice.keeper.hand_over(own, step_id(1, 0))
    with pytest.raises(OutOfOrderError, match="not 'alice1'"):
      other.keeper.hand_over(own, step_id(1, 0))
    for step in range(STEPS):
      alice.call("Forward", frames.encode(request(w, step)))
    with pytest.raises(OutOfOrderError, match="out of order"):
      alice.keeper.hand_over(own, step_id(2, 0))
    alice.keeper.hand_over(own, step_id(1, 0))
    assert w.bob.state.kept.turn == 1
    asked = queries.ask(other.call, wire_world.LIMIT, waiting=True)
    assert asked.handed.sender == "alice0"
    with pytest.raises(OutOfOrderError, match="alone is kept"):
      other.call("Get", frames.text({"step": step_id(0, 0)}))


def test_a_forged_or_old_hand_over_is_refused(tmp_path):
  with world(tmp_path) as w:
    alice, other, _ = begun(w)
    old = []
    for turn, (mine, theirs) in enumerate(((alice, other), (other, alice))):
      asked = yours(mine, theirs)
      if turn:
        mine.keeper.obtain(asked.handed)
      turned = alices._turn(mine, asked)
      mine.keeper.hand_over(turned.own, turned.step)
      old.append(w.bob.state.kept.sealed)
    handed = w.bob.state.kept.handed

    def given(sealed: Frame):
      kept = w.bob.state.kept._replace(sealed=frames.encode(sealed))
      w.bob._state = w.bob.state.keep(kept)

    now, before = (frames.decode(data) for data in reversed(old))
    body = bytearray(now.tensors["body"].tobytes())
    body[7] ^= 1
    damaged = now._replace(tensors={**now.tensors, "body": frames.from_bytes(bytes(body))})
    boxes = {"for:alice0": now.tensors["for:alice1"], "for:alice1": now.tensors["for:alice0"]}
    readdressed = now._replace(tensors={**now.tensors, **boxes})
    replayed = before._replace(step=now.step)
    for forged in (damaged, readdressed, replayed, before):
      given(forged)
      with pytest.raises(seal.SealError, match="forged, replayed or meant for another"):
        alice.keeper.obtain(handed)
    given(now)
    alice.keeper.obtain(handed)


def test_weights_that_are_not_finite_are_refused(tmp_path):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    turned = alices._turn(alice, yours(alice, other))
    alice.keeper.hand_over(jax.tree.map(lambda leaf: leaf * np.nan, turned.own), turned.step)
    with pytest.raises(DivergedError, match="'alice0' hands over are not finite"):
      other.keeper.obtain(w.bob.state.kept.handed)


def test_a_third_party_classifies_without_training(tmp_path):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    w.train(alice, other)
    carol = w.alice("carol")
    asked = queries.ask(carol.call, wire_world.LIMIT, waiting=False)
    assert (asked.state, asked.readable) == ("done", False)
    with pytest.raises(OutOfOrderError, match="not sealed for 'carol' yet"):
      carol.keeper.obtain(asked.handed)
    alices.stay(alice, 0, last=False)
    alices.stay(other, 0, last=False)  # who trained last, and seals it again
    assert not w.bob.deserted()  # carol is there
    own = carol.keeper.obtain(asked.handed)
    images = np.asarray(task().eval_transform(task().source.test.images, np.arange(6), None))
    batches = iter((images[:4], images[4:]))
    logits = infer(w.network, carol.call, wire_world.LIMIT, own, asked.handed.step, batches)
    parts = [*own, w.bob.state.kept.part]
    variables = {
      name: {k: v for part in parts for k, v in part.variables.get(name, {}).items()}
      for name in ("params", "batch_stats")
    }
    expected = task().model.apply(variables, images, Mode())
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    queries.ask(carol.call, wire_world.LIMIT, waiting=False, final=True)
    assert w.bob.deserted()
    old = iter((images[:4],))
    with pytest.raises(OutOfOrderError, match="fetch it again"):
      infer(w.network, carol.call, wire_world.LIMIT, own, step_id(1, 0), old)


def test_a_server_that_goes_back_is_refused(tmp_path):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    turn_of(alice, other)
    old = w.bob.state.kept
    turn_of(other, alice)
    turn_of(alice, other)

    def offered(committed):
      w.bob._state = w.bob.state.keep(committed)._replace(working=None)

    again = w.alice("alice0")  # a new process knows it from the disk
    begin = Committed(0, old.part, None, b"", Totals())
    for committed in (old._replace(turn=2), begin, w.bob.state.kept._replace(turn=0)):
      offered(committed)
      for one in (alice, again):
        with pytest.raises(StaleError, match="has gone back to step"):
          alices.train(one, wire_world.nothing, wire_world.nothing, wire_world.nothing)
    stale = w.bob.state.kept.handed._replace(step=step_id(1, 0))
    for work in (other.keeper.obtain, other.keeper.seal_again):
      with pytest.raises(StaleError):
        work(stale)
    with pytest.raises(UserError, match="turn 3, which is not its"):
      alices._turn(alice, alices.Asked("yours", 3, None, True, False, False))


def test_a_hand_over_leaves_out_whom_nobody_vouches_for(tmp_path):
  with world(tmp_path) as w:
    alice, other, carol = (w.alice(name) for name in ("alice0", "alice1", "carol"))
    members = w.bob.state.roll.members
    damaged = members["carol"].announcement.replace("MII", "x")
    members["carol"] = members["carol"]._replace(announcement=damaged)
    turn_of(alice, other)
    assert w.bob.state.readers == {*wire_world.NAMES}
    assert not queries.ask(alice.call, wire_world.LIMIT, waiting=False).lacking  # once is enough
    queries.join(carol.call, carol.keeper.announcement, None, 0, "")  # with a new certificate
    assert queries.ask(alice.call, wire_world.LIMIT, waiting=False).lacking


def test_sealing_again_may_come_too_late(tmp_path, monkeypatch):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    turn_of(alice, other)
    turned = alices._turn(other, yours(other, alice))
    w.alice("carol")
    ask = alices.ask

    def racing(call, *args, **options):
      asked = ask(call, *args, **options)
      if asked.lacking and options["waiting"]:
        other.keeper.hand_over(turned.own, turned.step)
      return asked

    def told(text):
      raise EOFError(text)

    with monkeypatch.context() as patch:
      patch.setattr(alices, "ask", racing)
      with pytest.raises(EOFError, match="its hand-over is out of order"):
        alices.train(alice, wire_world.nothing, wire_world.nothing, told)
    w.train(alice, other)
    assert w.bob.state.kept.totals.turns == ROUNDS * 2
