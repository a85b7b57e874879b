"""Receivers, order and origin of hand-overs."""

import jax
import numpy as np
import pytest
from helpers import wire_world
from helpers.wire_world import ROUNDS, STEPS, ask, begun, request, task, turn_of, world, yours

from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.norm import Mode
from fedjax_norm.wire.client import queries, training
from fedjax_norm.wire.client.hand_overs import StaleError
from fedjax_norm.wire.client.remote_steps import infer
from fedjax_norm.wire.protocol import encryption, frames, hand_over_bytes
from fedjax_norm.wire.protocol.frames import OUTPUT, Frame
from fedjax_norm.wire.protocol.remote_errors import OutOfOrderError
from fedjax_norm.wire.protocol.step_ids import step_id
from fedjax_norm.wire.server.store import Committed, Totals


@pytest.mark.parametrize("updates", [False, True])
def test_the_server_stores_hand_overs_that_it_cannot_read(tmp_path, updates):
  words = np.frombuffer(b"a seed..", np.uint32)
  seed = jax.random.wrap_key_data(words, impl="threefry2x32")
  with world(tmp_path, updates=updates) as w:
    client = w.client("alice0")._replace(start=seed)
    final, _ = w.train(client, w.client("alice1"))
    kernel = np.asarray(final.parts[0].variables["params"]["Conv_0"]["kernel"]).tobytes()
    stored = (tmp_path / "server" / "state.frame").read_bytes()
    assert kernel in frames.encode(Frame(OUTPUT, 0, frames.tree_tensors(final.parts)))
    if updates:
      assert b"a seed.." in hand_over_bytes.pack_updates(
        w.network, final.parts, 0, client.hand_overs.seed
      )
    for message in (stored, *(data for _, _, data in w.seen)):
      assert kernel not in message
      assert b"a seed.." not in message
    dense = np.asarray(w.state.committed.part.variables["params"]["Dense_0"]["kernel"]).tobytes()
    assert dense in stored


def test_hand_overs_out_of_order_are_refused(tmp_path):
  with world(tmp_path) as w:
    client, other, _ = begun(w)
    parts = w.network.client_parts(w.network.initial_parts(client.start))
    with pytest.raises(OutOfOrderError, match="step 0 of client 0"):  # before the first step
      client.hand_overs.hand_over(parts, step_id(1, 0))
    with pytest.raises(OutOfOrderError, match="not 'alice1'"):
      other.hand_overs.hand_over(parts, step_id(1, 0))
    for step in range(STEPS):
      client.call("Forward", frames.encode(request(w, step)))
    with pytest.raises(OutOfOrderError, match="out of order"):
      client.hand_overs.hand_over(parts, step_id(2, 0))
    client.hand_overs.hand_over(parts, step_id(1, 0))
    assert w.state.committed.turn == 1
    info = ask(other)
    assert info.hand_over.sender == "alice0"
    with pytest.raises(OutOfOrderError, match="the only one that"):
      other.call("Get", frames.encode_json({"step": step_id(0, 0)}))


def test_a_forged_or_old_hand_over_is_refused(tmp_path):
  with world(tmp_path) as w:
    client, other, _ = begun(w)
    old = []
    for turn, (mine, theirs) in enumerate(((client, other), (other, client))):
      info = yours(mine, theirs)
      if turn:
        mine.hand_overs.obtain(info.hand_over)
      turn = training._take_turn(mine, info)
      mine.hand_overs.hand_over(turn.parts, turn.next_step)
      old.append(w.state.committed.sealed)
    last = w.state.committed.hand_over

    def store(sealed: Frame):
      committed = w.state.committed._replace(sealed=frames.encode(sealed))
      w.server._state = w.state.commit(committed)

    now, before = (frames.decode(data) for data in reversed(old))
    body = bytearray(now.tensors["body"].tobytes())
    body[7] ^= 1
    damaged = now._replace(tensors={**now.tensors, "body": frames.from_bytes(bytes(body))})
    boxes = {"for:alice0": now.tensors["for:alice1"], "for:alice1": now.tensors["for:alice0"]}
    readdressed = now._replace(tensors={**now.tensors, **boxes})
    replayed = before._replace(step=now.step)
    for forged in (damaged, readdressed, replayed, before):
      store(forged)
      with pytest.raises(encryption.SealError, match="forged, replayed or meant for another"):
        client.hand_overs.obtain(last)
    store(now)
    client.hand_overs.obtain(last)


def test_weights_that_are_not_finite_are_refused(tmp_path):
  with world(tmp_path) as w:
    client, other = w.client("alice0"), w.client("alice1")
    turn = training._take_turn(client, yours(client, other))
    client.hand_overs.hand_over(
      jax.tree.map(lambda leaf: leaf * np.nan, turn.parts), turn.next_step
    )
    with pytest.raises(DivergedError, match="'alice0' hands over are not finite"):
      other.hand_overs.obtain(w.state.committed.hand_over)


def test_a_third_party_classifies_without_training(tmp_path):
  with world(tmp_path) as w:
    client, other = w.client("alice0"), w.client("alice1")
    w.train(client, other)
    carol = w.client("carol")
    info = ask(carol, waiting=False)
    assert (info.state, info.readable) == ("done", False)
    with pytest.raises(OutOfOrderError, match="not sealed for 'carol' yet"):
      carol.hand_overs.obtain(info.hand_over)
    training.stay(client, 0, last=False)
    training.stay(other, 0, last=False)  # it trained last, and seals the hand-over again
    assert not w.server.finished()  # carol is present
    own = carol.hand_overs.obtain(info.hand_over)
    images = np.asarray(task().eval_transform(task().source.test.images, np.arange(6), None))
    batches = iter((images[:4], images[4:]))
    logits = infer(w.network, carol.call, wire_world.LIMIT, own, info.hand_over.step, batches)
    parts = [*own, w.state.committed.part]
    variables = {
      name: {k: v for part in parts for k, v in part.variables.get(name, {}).items()}
      for name in ("params", "batch_stats")
    }
    expected = task().model.apply(variables, images, Mode())
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    ask(carol, waiting=False, final=True)
    assert w.server.finished()
    old = iter((images[:4],))
    with pytest.raises(OutOfOrderError, match="fetch it again"):
      infer(w.network, carol.call, wire_world.LIMIT, own, step_id(1, 0), old)


def test_a_server_that_goes_back_is_refused(tmp_path):
  with world(tmp_path) as w:
    client, other = w.client("alice0"), w.client("alice1")
    turn_of(client, other)
    old = w.state.committed
    turn_of(other, client)
    turn_of(client, other)

    def set_state(committed):
      w.server._state = w.state.commit(committed)._replace(active=None)

    again = w.client("alice0")  # a new process reads it from the disk
    begin = Committed(0, old.part, None, b"", Totals())
    for committed in (old._replace(turn=2), begin, w.state.committed._replace(turn=0)):
      set_state(committed)
      for one in (client, again):
        with pytest.raises(StaleError, match="has gone back to step"):
          training.train(one, *3 * [wire_world.nothing])
    stale = w.state.committed.hand_over._replace(step=step_id(1, 0))
    for work in (other.hand_overs.obtain, other.hand_overs.reseal):
      with pytest.raises(StaleError):
        work(stale)
    with pytest.raises(UserError, match="turn 3, which is another client's"):
      training._take_turn(client, training.TurnInfo("yours", 3, None, True, False, False))


def test_a_member_without_a_valid_certificate_is_no_receiver(tmp_path):
  with world(tmp_path) as w:
    client, other, carol = (w.client(name) for name in ("alice0", "alice1", "carol"))
    members = w.state.membership.members
    damaged = members["carol"].announcement.replace("MII", "x")
    members["carol"] = members["carol"]._replace(announcement=damaged)
    turn_of(client, other)
    assert w.state.readers == {*wire_world.NAMES}
    assert not ask(client, waiting=False).reseal
    queries.join(carol.call, carol.hand_overs.announcement, None, 0, "")  # with a new certificate
    assert ask(client, waiting=False).reseal


def test_resealing_can_be_too_late(tmp_path, monkeypatch):
  with world(tmp_path) as w:
    client, other = w.client("alice0"), w.client("alice1")
    turn_of(client, other)
    turn = training._take_turn(other, yours(other, client))
    w.client("carol")
    original = training.ask_turn

    def racing(call, *args, **options):
      info = original(call, *args, **options)
      if info.reseal and options["waiting"]:
        other.hand_overs.hand_over(turn.parts, turn.next_step)
      return info

    def notify(text):
      raise EOFError(text)

    with monkeypatch.context() as patch:
      patch.setattr(training, "ask_turn", racing)
      with pytest.raises(EOFError, match="its hand-over is out of order"):
        training.train(client, wire_world.nothing, wire_world.nothing, notify)
    w.train(client, other)
    assert w.state.committed.totals.turns == ROUNDS * 2
