"""Checks of every field of every message: type, range, length and text."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import wire_world
from helpers.wire_world import LIMIT, NAMES, World, begun, identities, request, turn_of, world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.split.messages import OUTPUT
from fedjax_norm.split.parties import Part
from fedjax_norm.wire.client import progress, queries, remote_steps
from fedjax_norm.wire.client.exchange_key import exchange_key
from fedjax_norm.wire.client.hand_overs import HandOvers
from fedjax_norm.wire.protocol import encryption, frames
from fedjax_norm.wire.protocol.fields import MAX_TEXT_BYTES
from fedjax_norm.wire.protocol.frames import FrameError
from fedjax_norm.wire.server import run_requests, weight_requests

HUGE = 10**400
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
VALUES = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-2, 9)
  | st.sampled_from([HUGE, -HUGE, 2**31, 2**63, 2**64, float("nan"), float("inf"), 1.0, "x" * 9000])
  | st.sampled_from(["", "host:²", "host:" + "9" * 5000, "a:0", "alice0", "yours", "done"])
  | TEXTS,
  lambda some: st.lists(some, max_size=2) | st.dictionaries(TEXTS, some, max_size=2),
  max_leaves=3,
)
FAST = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
FIELDS = {
  "Describe": (),
  "Join": ("client", "examples", "address", "announcement"),
  "Turn": ("waiting", "final"),
  "Members": (),
  "Get": ("step",),
}


@pytest.fixture(scope="module", params=[False, True])
def open_world(request, tmp_path_factory):
  """A server without sockets that two clients have joined, and the announcements by name."""
  folder = tmp_path_factory.mktemp("world")
  made, announced = World(folder, peer=request.param), {}
  run = made.state.membership.run
  for place, name in enumerate(NAMES):
    (folder / name).mkdir()
    key = exchange_key(folder / name, run)
    announced[name] = encryption.make_announcement(identities()[name], run, key).decode()
    made.server.methods()["Join"](
      name, frames.encode_json(joining(announced[name]) | {"client": place})
    )
  return made, announced


def joining(announcement: str) -> dict:
  return {"client": 0, "examples": 7, "address": "localhost:1", "announcement": announcement}


@FAST
@given(st.data())
def test_every_request_is_answered_or_refused(open_world, data):
  w, announced = open_world
  method = data.draw(st.sampled_from(sorted(FIELDS)))
  content = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS[method], VALUES)))
  if data.draw(st.booleans()) and method == "Join":
    content = joining(announced["alice0"]) | content
  content |= data.draw(st.just({}) | st.dictionaries(TEXTS, VALUES, max_size=1))
  sent = (
    frames.encode_json(content) if data.draw(st.booleans()) else data.draw(st.binary(max_size=60))
  )
  with contextlib.suppress(UserError):
    w.server.methods()[method](data.draw(st.sampled_from([*NAMES, "eve", ""])), sent)
  assert set(w.state.membership.members) == set(NAMES)


def test_accepted_members_are_read_again(open_world):
  w, _ = open_world
  before = w.state
  w.restart()
  assert w.state.membership == before.membership


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"address": "host:²"}, "is not an address"),
    ({"address": "host:" + "9" * 5000}, "is not an address"),
    ({"address": "localhost:0"}, "is not an address"),
    ({"address": "unix:/x:1"}, "is not an address"),
    ({"address": "\ud800:1"}, "cannot be read as JSON"),
    ({"announcement": "\ud800"}, "cannot be read as JSON"),
    ({"announcement": "x" * (MAX_TEXT_BYTES + 1)}, "an announcement of more than"),
    ({"announcement": "x" * frames.MAX_REQUEST_BYTES}, "above the limit"),
    ({"client": False}, "'client' .* not allowed"),
    ({"client": -1}, "'client' .* not allowed"),
    ({"client": HUGE}, "'client' .* not allowed"),
    ({"examples": True}, "'examples' .* not allowed"),
    ({"examples": 7.0}, "'examples' .* not allowed"),
    ({"examples": HUGE}, "too many examples"),
    ({"examples": -1}, "no training examples"),
    ({"client": None, "examples": HUGE}, "0 examples"),
    ({"client": None, "examples": 1}, "0 examples"),
  ],
)
def test_a_wrong_field_of_join_is_one_sentence(open_world, changes, text):
  w, announced = open_world
  before = w.state.membership
  with pytest.raises(UserError, match=text) as refused:
    w.server.methods()["Join"]("alice0", frames.encode_json(joining(announced["alice0"]) | changes))
  assert len(f"{refused.value}") < 1000
  assert w.state.membership == before


def test_a_client_with_too_many_steps_to_count_is_refused(open_world):
  run_settings = open_world[0].settings
  rules = run_settings.network.rules._replace(steps=lambda examples: 2**20 - 1)
  run_settings = run_settings._replace(network=run_settings.network._replace(rules=rules))
  run_requests._check_size(run_settings, "alice0", 7)
  with pytest.raises(UserError, match="steps that can be counted"):
    run_requests._check_size(run_settings._replace(rates=np.zeros(3000, np.float32)), "alice0", 7)


def test_peers_need_an_address(open_world):
  w, announced = open_world
  join = w.server.methods()["Join"]
  without = frames.encode_json(joining(announced["alice0"]) | {"address": ""})
  with pytest.raises(UserError, match="no address") if w.peer else contextlib.nullcontext():
    join("alice0", without)


ANSWERS = {
  "state": "wait", "turn": 0, "handed": None, "readable": True, "lacking": [], "deserted": False
}  # fmt: skip


@pytest.mark.parametrize(
  "changes",
  [
    {"state": "other"},
    {"turn": -1},
    {"turn": HUGE},
    {"turn": True},
    {"readable": 1},
    {"lacking": [1]},
    {"lacking": {}},
    {"deserted": None},
    {"handed": {}},
    {"handed": {"step": -1, "sender": "a", "address": ""}},
    {"handed": {"step": HUGE, "sender": "a", "address": ""}},
    {"handed": {"step": 1, "sender": "", "address": ""}},
    {"handed": {"step": 1, "sender": "\x1b[2J", "address": ""}},
    {"handed": {"step": 1, "sender": "a", "address": "unix:/x:1"}},
  ],
)
def test_a_client_refuses_an_impossible_answer(changes):
  def call(method, request):
    return frames.encode_json({**ANSWERS, **changes})

  with pytest.raises(FrameError, match="is not allowed"):
    queries.ask_turn(call, LIMIT, waiting=True)


@pytest.mark.parametrize(
  "changes",
  [
    {"run": "x y"},
    {"run": "\x1b[2J" * 8},
    {"clients": "ab"},
    {"clients": [""]},
    {"clients": ["\n"]},
    {"told": []},
    {"told": {"a\n": 1}},
    {"told": {"cut": "\x1b[2J"}},
    {"told": {"rounds": HUGE}},
    {"told": {"image_shape": [6, -6, 1]}},
    {"told": {"model": {}}},
  ],
)
def test_a_client_refuses_an_impossible_run(changes):
  good = {"run": "0" * 32, "clients": ["a"], "told": {"rounds": 3, "lr": 0.1, "image_shape": [6]}}
  assert queries.describe(lambda *_: frames.encode_json(good), LIMIT).run == "0" * 32
  with pytest.raises(FrameError, match="is not allowed"):
    queries.describe(lambda *_: frames.encode_json({**good, **changes}), LIMIT)


def test_a_hand_over_is_for_members_and_has_a_short_announcement(tmp_path):
  with world(tmp_path) as w:
    client, other, _ = begun(w)
    turn_of(client, other)
    sealed = frames.decode(w.state.committed.sealed)
    box = sealed.tensors["for:alice0"]
    for tensors, text in (
      ({"for:eve": box}, "encrypted for 'eve', who has not joined"),
      ({"announcement": np.zeros(MAX_TEXT_BYTES + 1, np.uint8)}, "an announcement of more than"),
    ):
      frame = sealed._replace(tensors={**sealed.tensors, **tensors})
      with pytest.raises(FrameError, match=text):
        weight_requests.put(w.state, "alice0", frames.encode(frame), 0.0)


def test_a_step_without_examples_is_refused(tmp_path):
  with world(tmp_path) as w:
    client, _, good = begun(w)
    none = request(
      w, **{k: v[:0] for k, v in zip(("activation", "labels"), good.tensors.values(), strict=True)}
    )
    with pytest.raises(UserError, match="no examples"):
      client.call("Forward", frames.encode(none))


@pytest.mark.parametrize(
  ("value", "later", "error"), [(np.nan, 0, DivergedError), (0, 1, FrameError)]
)
def test_wrong_outputs_are_refused(value, later, error):
  network = wire_world.network()

  def call(method, data, seconds):
    step = frames.decode(data).step
    outputs = np.full((2, 4), value, np.float32)
    return frames.encode(frames.Frame(OUTPUT, step + later, frames.tree_tensors(outputs)))

  parts = network.client_parts(network.initial_parts(wire_world.jax.random.key(0)))
  images = np.zeros((2, *wire_world.task().image_shape), np.float32)
  with pytest.raises(error):
    remote_steps.infer(network, call, LIMIT, parts, 3, iter([images]))


def test_a_tail_that_has_diverged_is_refused():
  network = wire_world.network("body")
  network = network._replace(
    evaluate=tuple(
      lambda variables, x, value=value, shape=shape: np.full((4, *shape.shape), value, np.float32)
      for value, shape in zip((0, 0, np.nan), network.outputs, strict=True)
    )
  )
  parts = (Part({}, ()), Part({}, ()))

  def call(method, data, seconds):
    outputs = np.zeros((2, *network.outputs[1].shape), np.float32)
    return frames.encode(frames.Frame(OUTPUT, 3, frames.tree_tensors(outputs)))

  with pytest.raises(DivergedError, match="the client's tail has numbers that are not finite"):
    remote_steps.infer(network, call, LIMIT, parts, 3, iter([np.zeros((2, 6, 6, 1), np.float32)]))


@pytest.mark.parametrize(
  "ask",
  [
    lambda call: queries.join(call, b"", 0, 7, ""),
    lambda call: HandOvers._put(SimpleNamespace(_call=call), b""),
  ],
)
def test_an_empty_answer_is_checked_too(ask):
  assert ask(lambda *_: frames.encode_json({})) is None
  for answer in (b"", frames.encode_json({"more": 1})):
    with pytest.raises(FrameError):
      ask(lambda *_, answer=answer: answer)


def test_damaged_progress_is_refused(tmp_path):
  (tmp_path / "progress.json").write_text('{"reached": 3}')
  with pytest.raises(UserError, match="damaged or of another version"):
    progress.read(tmp_path)
  with (
    pytest.raises(ValueError, match="not JSON compliant"),
    progress.written(tmp_path, progress.Progress(scores={"loss": float("nan")})),
  ):
    pass
