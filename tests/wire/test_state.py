"""The rules about turns, without sockets, disks or clocks."""

import jax
import numpy as np
import pytest
from helpers import wire_world

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.step_ids import step_id
from fedjax_norm.wire.server import run_requests
from fedjax_norm.wire.server.state import RunSettings, RunState, initial_state
from fedjax_norm.wire.server.store import Committed, HandOver, Member, Membership, Totals

NAMES = ("a", "b", "c")
PATIENCE, ROUNDS = 10.0, 2


def state_of(*joined: str, peer: bool = True, final: tuple[str, ...] = ()) -> RunState:
  """Returns a run of three clients at time 0, with the joined ones."""
  made = wire_world.network()
  part = made.initial_parts(jax.random.key(0))[made.server_index]
  rates = np.zeros(ROUNDS, np.float32)
  settings = RunSettings(made, b"", NAMES, {}, rates, jax.random.key(0), PATIENCE, peer, 10**6)
  members = {name: Member(NAMES.index(name), 7, f"{name}:1", "", "") for name in joined}
  committed = Committed(0, part, None, b"", Totals())
  return initial_state(settings, Membership("run", members, frozenset(final)), committed, 0.0)


def ask(
  state: RunState, name: str, now: float, *, later: float = 0.0, final: bool = False
) -> tuple[RunState, dict | None]:
  """Returns the answer to a request for a turn that waits for ``later`` seconds."""
  data = frames.encode_json({"waiting": True, "final": final})
  state, asking = run_requests.ask_turn(state, name, data, now)
  state, answer = run_requests.answer_turn(state, asking, now + later)
  fields = dict.fromkeys(
    ("state", "turn", "handed", "readable", "lacking", "deserted"), lambda _: True
  )
  return state, frames.decode_json(answer, **fields) if answer else None


def handed_over(state: RunState, now: float) -> RunState:
  """Returns the state after a hand-over in the current turn."""
  turn = state.committed.turn + 1
  hand_over = HandOver(step_id(turn, 0), state.current_client, "")
  return state.advance(state.committed._replace(turn=turn, hand_over=hand_over), now)


def test_the_first_turn_waits_for_clients():
  state, answer = ask(state_of("a", "b"), "a", 0.0)
  assert answer is None  # the others may join, and the caller may wait
  state, answer = ask(state, "b", 9.0, later=run_requests._LONGEST_POLL)
  assert (answer["state"], state.offered_at) == ("wait", None)
  full, _ = ask(state_of(*NAMES).heard_from("b", 0.0).heard_from("c", 0.0), "a", 0.0)
  assert full.offered_at == 0.0
  late, answer = ask(state, "a", 10.1)  # the patience for c is over
  assert (answer["state"], answer["turn"], late.offered_at) == ("yours", 0, 10.1)
  with pytest.raises(UserError, match="'c' has not joined"):
    ask(late, "c", 10.2)


def test_a_turn_passes_from_a_silent_client_to_a_present_one():
  state = state_of("a", "b", "c")._replace(offered_at=0.0)
  for name in NAMES:
    state = state.heard_from(name, 5.0)
  assert state.pass_on(15.0) is state
  assert state.pass_on(15.1) is state  # no other client is present
  state = state.heard_from("c", 15.0)
  assert state._replace(computing=True).pass_on(15.1).committed.turn == 0
  passed = state.begin_turn().pass_on(15.1)
  assert (passed.committed.turn, passed.committed.totals.passed) == (2, 2)
  assert (passed.active, passed.offered_at, passed.current_client) == (None, 15.1, "c")
  assert passed.committed.totals.seconds == 15.1
  # After a restart the time counts from the next offer.
  assert handed_over(
    passed._replace(offered_at=20.0), 22.0
  ).committed.totals.seconds == pytest.approx(17.1)
  assert handed_over(passed._replace(offered_at=None), 22.0).committed.totals.seconds == 15.1
  assert state.committed.turn == 0  # the old state is unchanged
  # If the last turn of the run passes on, all turns are over.
  last = state.commit(state.committed._replace(turn=5, hand_over=HandOver(0, "b", "")))
  over = last._replace(offered_at=0.0).heard_from("a", 15.0).heard_from("c", 0.0).pass_on(15.1)
  assert over.done
  assert over.committed.totals.passed == 1


def test_a_sign_of_life_keeps_a_turn():
  state = state_of(*NAMES)
  for name in NAMES:
    state = state.heard_from(name, 0.0)
  state, answer = ask(state, "a", 0.0)
  assert answer["state"] == "yours"
  for now in (8.0, 16.0, 24.0):
    state, _ = ask(state.heard_from("a", now), "b", now)
    assert (state.current_client, state.active is None) == ("a", False)
  state, answer = ask(state, "b", 34.1)
  assert (answer["state"], answer["turn"]) == ("yours", 1)


def test_only_a_reader_of_the_hand_over_gets_the_next_turn():
  state = handed_over(state_of(*NAMES, peer=False)._replace(offered_at=0.0), 0.0)
  state = state._replace(readers=frozenset("ac"), sender_keys=frozenset("a"))
  for name in NAMES:
    state = state.heard_from(name, 0.0)
  assert ask(state, "b", 0.0)[1] is None
  assert state.missing_receivers("a") == ["b"]
  assert ask(state, "a", 0.0)[1]["lacking"] == ["b"]  # without waiting
  state = state.heard_from("c", 9.0).heard_from("a", 9.0)
  passed = state.pass_on(10.1)
  assert passed.current_client == "c"  # b cannot read the hand-over


def test_the_end_waits_for_members_that_may_need_the_hand_over():
  state = state_of(*NAMES, final=("a",))
  state = state.commit(state.committed._replace(turn=3 * ROUNDS, hand_over=HandOver(0, "c", "")))
  assert state.done
  assert state.waiting(5.0) == {"b", "c"}  # they joined before a restart and may return
  assert state.waiting(10.1) == frozenset()
  state, answer = ask(state, "b", 9.0)
  assert (answer["state"], answer["deserted"]) == ("done", False)
  assert answer["handed"]["address"] == "c:1"
  state, answer = ask(state, "b", 12.0, final=True)
  assert answer["deserted"]
  assert state.membership.final == {"a", "b"}
  assert state.waiting(12.0) == frozenset()
