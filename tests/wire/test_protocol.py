"""Local steps and joining, over real sockets in one process."""

import threading
from concurrent import futures

import numpy as np
import pytest
from helpers import wire_world
from helpers.wire_world import (
  BATCH,
  ROUNDS,
  STEPS,
  ask,
  assert_same,
  begun,
  request,
  turn_of,
  world,
)

from fedjax_norm.errors import UserError
from fedjax_norm.split.messages import ACTIVATION, GRADIENT
from fedjax_norm.wire.client import queries
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.remote_errors import OutOfOrderError, RefusedError
from fedjax_norm.wire.protocol.step_ids import step_id
from fedjax_norm.wire.server import server_step


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("peer", [False, True])
def test_the_wire_gives_the_bits_of_the_simulation(tmp_path, plain, peer, updates):
  with world(tmp_path, peer=peer, updates=updates) as w:
    first, second = w.train(w.client("alice0"), w.client("alice1"))
    assert_same(w.variables(first.parts), plain)
    assert_same(w.variables(second.parts), plain)
    assert [round for round, _ in w.rounds] == [1, 2]
    totals = w.state.committed.totals
    assert totals.turns == ROUNDS * 2
    # Both sides count the same bytes, and a client that returns remembers its count.
    traffic = [w.client(name).hand_overs.progress.traffic for name in wire_world.NAMES]
    assert (totals.up, totals.down) == tuple(map(sum, zip(*traffic, strict=True)))
    counted = [len(d) for method, _, d in w.seen if method in ("Forward", "Put")]
    fetched = [len(d) for method, _, d in w.seen if method == "Get"][: ROUNDS * 2 - 1]
    assert totals.up == sum(counted) + sum(fetched)
    labels = {name for method, _, data in w.seen for name in frames.decode(data).tensors}
    assert "['labels']" in labels


def test_the_u_shape_gives_the_bits_of_the_simulation_and_sends_no_labels_or_images(tmp_path):
  with world(tmp_path, tail="body", updates=True) as w:
    final, _ = w.train(w.client("alice0"), w.client("alice1"))
    assert_same(w.variables(final.parts), wire_world.simulated(tail="body"))
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
    client, _, frame = begun(w)
    data = frames.encode(frame)
    first = client.call("Forward", data)
    part = w.state.active.part
    assert client.call("Forward", data) == first
    assert w.state.active.part is part
    assert w.state.active.totals.steps == 1
    other = request(w, labels=np.array([1, 1, 3], np.int32))
    with pytest.raises(RefusedError, match="with other content"):
      client.call("Forward", frames.encode(other))
    # After the next step, this step is out of order.
    client.call("Forward", frames.encode(request(w, 1)))
    assert w.state.active.totals.steps == 2
    for frame, next_ in ((request(w), "step 2"), (request(w, 5), "step 2")):
      with pytest.raises(OutOfOrderError, match=f"out of order: .*{next_} of client 0 in round 0"):
        client.call("Forward", frames.encode(frame))
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
    client, _, frame = begun(w)
    part = w.state.active.part
    for data, text in wrong_frames(w):
      with pytest.raises(RefusedError, match=text):
        client.call("Forward", data)
      assert w.state.active.part is part
    client.call("Forward", frames.encode(frame))


def test_a_party_joins_under_the_name_on_its_certificate(tmp_path):
  with world(tmp_path) as w:
    client = w.client("alice0")
    announcement = client.hand_overs.announcement
    with pytest.raises(RefusedError, match="'alice1' announces a public key of 'alice0'"):
      queries.join(w.caller("alice1"), announcement, 1, 7, "")
    with pytest.raises(RefusedError, match=r"'alice0' asks to be client 1 but.* is client 0"):
      queries.join(client.call, announcement, 1, 7, "")
    with pytest.raises(RefusedError, match=r"'carol' asks to be client 0 but.* is none of"):
      w.client("carol", place=0)
    (tmp_path / "alice0" / "exchange.key").unlink()
    with pytest.raises(RefusedError, match="with another public key"):
      w.client("alice0")
    (tmp_path / "alice0" / "exchange.key").write_text(f"other {'00' * 32}")
    with pytest.raises(UserError, match="another run"):
      w.client("alice0", join=False)
    for damaged in ("", f"{w.state.membership.run} abc"):
      (tmp_path / "alice0" / "exchange.key").write_text(damaged)
      with pytest.raises(UserError, match="is damaged"):
        w.client("alice0", join=False)
    for examples, text in ((0, "no training examples"), (10**30, "divide them over more clients")):
      with pytest.raises(RefusedError, match=text):
        queries.join(client.call, announcement, 0, examples, "")
    with pytest.raises(RefusedError, match="an announcement of more than"):
      queries.join(client.call, announcement + b" " * 9000, 0, 7, "")
    with pytest.raises(RefusedError, match="not an address"):
      queries.join(client.call, announcement, 0, 7, "nowhere")


def test_a_part_that_has_diverged_is_never_committed(tmp_path):
  with world(tmp_path) as w:
    client, other, good = begun(w)
    before = w.state.committed
    x, _ = good.tensors.values()
    for step in range(STEPS):
      client.call("Forward", frames.encode(request(w, step, activation=np.float32(1e30) * x)))
    parts = w.network.client_parts(w.network.initial_parts(client.start))
    with pytest.raises(RefusedError, match="is not finite after the turn of 'alice0'"):
      client.hand_overs.hand_over(parts, step_id(1, 0))
    assert w.state.committed is before
    turn_of(client, other)  # the turn is repeated
    assert w.state.committed.turn == 1


def test_the_server_answers_others_while_it_computes(tmp_path, monkeypatch):
  with world(tmp_path) as w:
    client, other, frame = begun(w)
    begun_, go = threading.Event(), threading.Event()
    compute = server_step.forward

    def slow(*args):
      begun_.set()
      go.wait(10)
      return compute(*args)

    monkeypatch.setattr(server_step, "forward", slow)
    with futures.ThreadPoolExecutor(1) as thread:
      answer = thread.submit(client.call, "Forward", frames.encode(frame))
      assert begun_.wait(10)
      w.later += 100  # longer than the patience, but the server computes
      assert ask(other).state == "wait"
      go.set()
      assert frames.decode(answer.result(10)).kind == GRADIENT
    assert w.state.committed.totals.passed == 0
