"""Steps, and who may take them, over real sockets in one process."""

import threading
from concurrent import futures

import numpy as np
import pytest
from helpers import wire_world
from helpers.wire_world import (
  BATCH,
  ROUNDS,
  STEPS,
  assert_same,
  begun,
  held,
  request,
  simulated,
  turn_of,
  world,
)

from fedjax_norm.errors import UserError
from fedjax_norm.split.messages import ACTIVATION, GRADIENT
from fedjax_norm.wire.client import queries
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.transport import OutOfOrderError, RefusedError
from fedjax_norm.wire.protocol.turns import step_id
from fedjax_norm.wire.server import body


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
    told = [w.alice(name).keeper.progress.traffic for name in wire_world.NAMES]
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


def test_who_joins_is_who_the_certificate_says(tmp_path):
  with world(tmp_path) as w:
    alice = w.alice("alice0")
    announcement = alice.keeper.announcement
    with pytest.raises(RefusedError, match="'alice1' announces a public key of 'alice0'"):
      queries.join(w.caller("alice1"), announcement, 1, 7, "")
    with pytest.raises(RefusedError, match=r"'alice0' asks for place 1 and.* has place 0"):
      queries.join(alice.call, announcement, 1, 7, "")
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
        queries.join(alice.call, announcement, 0, examples, "")
    with pytest.raises(RefusedError, match="more of itself than"):
      queries.join(alice.call, announcement + b" " * 9000, 0, 7, "")
    with pytest.raises(RefusedError, match="no address"):
      queries.join(alice.call, announcement, 0, 7, "nowhere")


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
      assert queries.ask(other.call, wire_world.LIMIT, waiting=True).state == "wait"
      go.set()
      assert frames.decode(answer.result(10)).kind == GRADIENT
    assert w.bob.state.kept.totals.passed == 0
