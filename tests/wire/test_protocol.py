"""The protocol, over real sockets in one process."""

import threading
import time
from concurrent import futures
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import wire_world
from wire_world import BATCH, RATES, ROUNDS, STEPS, by_messages, task, world

from fedjax_norm import trees
from fedjax_norm.errors import LostError, UserError
from fedjax_norm.norm import Mode
from fedjax_norm.split.messages import ACTIVATION, GRADIENT
from fedjax_norm.wire import alice as alices
from fedjax_norm.wire import body, frames, handing, keeping, private, requests, seal
from fedjax_norm.wire.frames import OUTPUT, Frame
from fedjax_norm.wire.keeping import StaleError, Traffic
from fedjax_norm.wire.remote import infer
from fedjax_norm.wire.store import Committed, Totals
from fedjax_norm.wire.transport import OutOfOrderError, RefusedError
from fedjax_norm.wire.turns import step_id


def simulated(tail=None):
  """The variables of ``--step_by_step`` in one process."""
  return by_messages(task(), wire_world.options(tail=tail), RATES)


def held(own, bob) -> dict[str, np.ndarray]:
  """The whole model's variables, from both sides."""
  parts = [part.variables for part in (*own, bob.state.kept.part)]
  return {k: np.asarray(v) for part in parts for k, v in trees.flatten(part).items()}


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], name)


@pytest.fixture(scope="module")
def plain():
  return simulated()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
  """Whoever waits for a turn asks again soon."""
  monkeypatch.setattr(requests, "_LONGEST_POLL", 0.05)
  monkeypatch.setattr(alices, "PAUSE", 0.02)


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("peer", [False, True])
def test_wire_is_step_by_step_bit_for_bit(tmp_path, plain, peer, updates):
  with world(tmp_path, peer=peer, updates=updates) as w:
    first, second = w.train(w.alice("alice0"), w.alice("alice1"))
    assert_same(held(first.own, w.bob), plain)
    assert_same(held(second.own, w.bob), plain)
    assert [round for round, _ in w.rounds] == [1, 2]
    totals = w.bob.state.kept.totals
    assert totals.turns == ROUNDS * 2
    # Both sides count the same bytes, and an Alice that comes back has not forgotten hers.
    told = [w.alice(name).keeper.traffic for name in wire_world.NAMES]
    assert (totals.up, totals.down) == tuple(map(sum, zip(*told, strict=True)))
    counted = [len(d) for method, _, d in w.seen if method in ("Forward", "Put")]
    fetched = [len(d) for method, _, d in w.seen if method == "Get"][: ROUNDS * 2 - 1]
    assert totals.up == sum(counted) + sum(fetched)
    labels = {name for method, _, data in w.seen for name in frames.decode(data).tensors}
    assert "['labels']" in labels


def test_u_shape_is_step_by_step_and_keeps_labels_and_images(tmp_path):
  with world(tmp_path, tail="body", updates=True) as w:
    final, _ = w.train(w.alice("alice0"), w.alice("alice1"))
    assert_same(held(final.own, w.bob), simulated(tail="body"))
    kinds = set()
    for method, _, data in w.seen:
      frame = frames.decode(data)
      if method in ("Forward", "Backward"):
        kinds.add(frame.kind)
        assert len(frame.tensors) == 1
        assert all(t.dtype == np.float32 and t.ndim == 2 for t in frame.tensors.values())
    assert kinds == {ACTIVATION, GRADIENT}


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
      assert b"a seed.." in handing.pack_updates(w.network, final.own, 0, alice.keeper.seed)
    for message in (stored, *(data for _, _, data in w.seen)):
      assert kernel not in message
      assert b"a seed.." not in message
    dense = np.asarray(w.bob.state.kept.part.variables["params"]["Dense_0"]["kernel"]).tobytes()
    assert dense in stored


def begun(w, name="alice0"):
  """An Alice whose turn has begun, and the request of its first step."""
  alice = w.alice(name)
  other = w.alice("alice1" if name == "alice0" else "alice0")
  alices.ask(other.call, wire_world.LIMIT, waiting=True)
  assert alices.ask(alice.call, wire_world.LIMIT, waiting=True).state == "yours"
  return alice, other, request(w)


def request(w, step=0, turn=0, **changes):
  rng = np.random.default_rng(step)
  shape = w.network.outputs[0].shape
  sent = {"activation": rng.normal(size=(3, *shape)).astype(np.float32)}
  sent["labels"] = np.array([0, 1, 3], np.int32)
  return Frame(ACTIVATION, step_id(turn, step), frames.named({**sent, **changes}))


def test_a_step_that_is_repeated_is_taken_once(tmp_path):
  with world(tmp_path) as w:
    alice, _, frame = begun(w)
    data = frames.encode(frame)
    first = alice.call("Forward", data)
    part = w.bob.state.working.part
    assert alice.call("Forward", data) == first
    assert w.bob.state.working.part is part
    assert w.bob.state.working.totals.steps == 1
    other = request(w, labels=np.array([1, 1, 3], np.int32))
    with pytest.raises(RefusedError, match="with other content"):
      alice.call("Forward", frames.encode(other))
    # The next step acknowledges it; then it is old.
    alice.call("Forward", frames.encode(request(w, 1)))
    assert w.bob.state.working.totals.steps == 2
    for frame, next_ in ((request(w), "step 2"), (request(w, 5), "step 2")):
      with pytest.raises(OutOfOrderError, match=f"out of order: .*{next_} of client 0 in round 0"):
        alice.call("Forward", frames.encode(frame))
    with pytest.raises(OutOfOrderError, match="not 'alice1'"):
      w.caller("alice1")("Forward", data)


def wrong_frames(w):
  good = request(w)
  x, labels = good.tensors.values()
  data = frames.encode(good)
  return [
    (data[:-1], "truncated"),
    (data + b"\0", "too many"),
    (frames.encode(request(w, activation=x.astype(np.float16))), "float16.*float32"),
    (frames.encode(request(w, activation=x[:, :-1])), "is expected"),
    (frames.encode(request(w, activation=x * np.inf)), "not finite"),
    (frames.encode(request(w, labels=labels + 1)), "none of the 4 classes"),
    (frames.encode(request(w, images=x)), "are expected"),
    (frames.encode(request(w, activation=np.repeat(x, 2, 0))), f"{BATCH} at most"),
    (frames.encode(good._replace(kind=GRADIENT)), "kind 'gradient'"),
    (frames.encode(request(w, activation=np.zeros((3, 90000), np.float32))), "limit|larger"),
  ]


def test_a_wrong_tensor_is_one_sentence_and_changes_nothing(tmp_path):
  with world(tmp_path) as w:
    alice, _, frame = begun(w)
    part = w.bob.state.working.part
    for data, text in wrong_frames(w):
      with pytest.raises(RefusedError, match=text):
        alice.call("Forward", data)
      assert w.bob.state.working.part is part
    alice.call("Forward", frames.encode(frame))


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
    asked = alices.ask(other.call, wire_world.LIMIT, waiting=True)
    assert asked.handed.sender == "alice0"
    with pytest.raises(OutOfOrderError, match="alone is kept"):
      other.call("Get", frames.text({"step": step_id(0, 0)}))


@pytest.mark.parametrize("peer", [False, True])
def test_a_client_that_vanishes_costs_its_own_turn_alone(tmp_path, peer):
  with world(tmp_path, peer=peer) as w:
    alice, other, _ = begun(w)
    turned = alices._turn(alice, _yours(alice, other))
    alice.keeper.hand_over(turned.own, turned.step)
    asked = alices.ask(other.call, wire_world.LIMIT, waiting=True)
    assert asked.state == "yours"
    before = w.bob.state.kept
    other.call("Forward", frames.encode(request(w, turn=1)))  # and is not heard of again
    assert w.bob.state.working.part is not before.part
    assert alices.ask(alice.call, wire_world.LIMIT, waiting=True).state == "wait"
    w.later += 25
    asked = alices.ask(alice.call, wire_world.LIMIT, waiting=True)
    assert (asked.state, asked.turn, asked.handed.sender) == ("yours", 2, "alice0")
    assert_same(
      {k: np.asarray(v) for k, v in trees.flatten(w.bob.state.working.part.variables).items()},
      {k: np.asarray(v) for k, v in trees.flatten(before.part.variables).items()},
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


def test_a_turn_waits_for_the_only_client_that_can_have_it(tmp_path):
  with world(tmp_path) as w:
    alice = w.alice("alice0")
    assert alices.ask(alice.call, wire_world.LIMIT, waiting=True).state == "wait"
    w.later += 25  # alice1 never joined
    assert alices.ask(alice.call, wire_world.LIMIT, waiting=True).state == "yours"
    w.later += 100  # nobody else is there, and what nobody takes over is not lost
    assert alices.ask(alice.call, wire_world.LIMIT, waiting=True).state == "yours"
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
    turned = alices._turn(alice, _yours(alice, other))
    alice.keeper.hand_over(turned.own, turned.step)
    again = w.alice("alice0")  # a new process, with the old one's folder
    first, second = w.train(again, other)
    assert killed == [0, 1] or killed == [0, 0]
    assert_same(held(first.own, w.bob), plain)
    assert_same(held(second.own, w.bob), plain)


def _yours(alice, other):
  alices.ask(other.call, wire_world.LIMIT, waiting=True)
  return alices.ask(alice.call, wire_world.LIMIT, waiting=True)


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


def test_who_joins_is_who_the_certificate_says(tmp_path):
  with world(tmp_path) as w:
    alice = w.alice("alice0")
    announcement = alice.keeper.announcement
    with pytest.raises(RefusedError, match="'alice1' announces a public key of 'alice0'"):
      alices.join(w.caller("alice1"), announcement, 1, 7, "")
    with pytest.raises(RefusedError, match=r"'alice0' asks for place 1 and.* has place 0"):
      alices.join(alice.call, announcement, 1, 7, "")
    with pytest.raises(RefusedError, match=r"'carol' asks for place 0 and.* is none of"):
      w.alice("carol", place=0)
    (tmp_path / "alice0" / "exchange.key").unlink()
    with pytest.raises(RefusedError, match="with another public key"):
      w.alice("alice0")
    (tmp_path / "alice0" / "exchange.key").write_text(f"other {'00' * 32}")
    with pytest.raises(UserError, match="another run"):
      w.alice("alice0", join=False)
    for damaged in ("", f"{w.bob.state.roll.run} abc"):
      (tmp_path / "alice0" / "exchange.key").write_text(damaged)
      with pytest.raises(UserError, match="is damaged"):
        w.alice("alice0", join=False)
    for examples, text in ((0, "no training examples"), (10**30, "divide them over more clients")):
      with pytest.raises(RefusedError, match=text):
        alices.join(alice.call, announcement, 0, examples, "")
    with pytest.raises(RefusedError, match="more of itself than"):
      alices.join(alice.call, announcement + b" " * 9000, 0, 7, "")
    with pytest.raises(RefusedError, match="no address"):
      alices.join(alice.call, announcement, 0, 7, "nowhere")


def test_a_forged_or_old_hand_over_is_refused(tmp_path):
  with world(tmp_path) as w:
    alice, other, _ = begun(w)
    old = []
    for turn, (mine, theirs) in enumerate(((alice, other), (other, alice))):
      asked = _yours(mine, theirs)
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


def test_a_third_party_classifies_without_training(tmp_path):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    w.train(alice, other)
    carol = w.alice("carol")
    asked = alices.ask(carol.call, wire_world.LIMIT, waiting=False)
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
    alices.ask(carol.call, wire_world.LIMIT, waiting=False, final=True)
    assert w.bob.deserted()
    old = iter((images[:4],))
    with pytest.raises(OutOfOrderError, match="fetch it again"):
      infer(w.network, carol.call, wire_world.LIMIT, own, step_id(1, 0), old)


def turn_of(alice, other):
  """A turn, handed over; what Bob has kept then."""
  turned = alices._turn(alice, _yours(alice, other))
  alice.keeper.hand_over(turned.own, turned.step)
  alice.keeper.advance(turned.step, Traffic())


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
    assert not alices.ask(alice.call, wire_world.LIMIT, waiting=False).lacking  # once is enough
    alices.join(carol.call, carol.keeper.announcement, None, 0, "")  # with a new certificate
    assert alices.ask(alice.call, wire_world.LIMIT, waiting=False).lacking


def test_a_server_that_restarts_keeps_its_run_and_waits_for_its_members(tmp_path):
  with world(tmp_path) as w:
    early = w.alice("alice0", join=False)
    w.restart()  # before anybody has joined
    alices.join(early.call, early.keeper.announcement, 0, 7, "")
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


def test_sealing_again_may_come_too_late(tmp_path, monkeypatch):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    turn_of(alice, other)
    turned = alices._turn(other, _yours(other, alice))
    w.alice("carol")
    ask = alices.ask

    def racing(call, *args, **options):
      asked = ask(call, *args, **options)
      if asked.lacking:
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
      patch.setattr(keeping, "_PEER_PATIENCE", 0.1)
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


def test_a_part_that_has_diverged_is_never_kept(tmp_path):
  with world(tmp_path) as w:
    alice, other, good = begun(w)
    before = w.bob.state.kept
    x, _ = good.tensors.values()
    for step in range(STEPS):
      alice.call("Forward", frames.encode(request(w, step, activation=np.float32(1e30) * x)))
    own = w.network.own(w.network.begin(alice.start))
    with pytest.raises(RefusedError, match="is not finite after the turn of 'alice0'"):
      alice.keeper.hand_over(own, step_id(1, 0))
    assert w.bob.state.kept is before
    turn_of(alice, other)  # the turn is had again
    assert w.bob.state.kept.turn == 1


def test_a_full_disk_costs_no_turn(tmp_path, monkeypatch):
  with world(tmp_path) as w:
    alice, other = w.alice("alice0"), w.alice("alice1")
    turn_of(alice, other)
    turned = alices._turn(other, _yours(other, alice))

    def full(path, data):
      raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
      patch.setattr(private, "replace", full)
      with pytest.raises(RefusedError, match="cannot write"):
        other.keeper.hand_over(turned.own, turned.step)
    other.keeper.hand_over(turned.own, turned.step)
    assert [round for round, _ in w.rounds] == [1, 1]
    assert w.bob.state.kept.turn == 2


def test_bob_answers_others_while_he_computes(tmp_path, monkeypatch):
  with world(tmp_path) as w:
    alice, other, frame = begun(w)
    begun_, go = threading.Event(), threading.Event()
    compute = body.forward

    def slow(*args):
      begun_.set()
      go.wait(10)
      return compute(*args)

    monkeypatch.setattr(body, "forward", slow)
    with futures.ThreadPoolExecutor(1) as thread:
      answer = thread.submit(alice.call, "Forward", frames.encode(frame))
      assert begun_.wait(10)
      w.later += 100  # longer than the patience, but the time is Bob's
      assert alices.ask(other.call, wire_world.LIMIT, waiting=True).state == "wait"
      go.set()
      assert frames.decode(answer.result(10)).kind == GRADIENT
    assert w.bob.state.kept.totals.passed == 0


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
        assert alices.ask(other.call, wire_world.LIMIT, waiting=True).state == "wait"
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
