"""Whose turn it is, without sockets, disks or clocks."""

import jax
import numpy as np
import pytest
from helpers import wire_world

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.turns import step_id
from fedjax_norm.wire.server import run_requests
from fedjax_norm.wire.server.state import Setting, State, begin
from fedjax_norm.wire.server.store import Committed, Handed, Member, Roll, Totals

NAMES = ("a", "b", "c")
PATIENCE, ROUNDS = 10.0, 2


def state_of(*joined: str, peer: bool = True, final: tuple[str, ...] = ()) -> State:
  """A run of three clients, of whom some have joined, that begins at time 0."""
  made = wire_world.network()
  part = made.begin(jax.random.key(0))[made.bob]
  rates = np.zeros(ROUNDS, np.float32)
  setting = Setting(made, b"", NAMES, {}, rates, jax.random.key(0), PATIENCE, peer, 10**6)
  members = {name: Member(NAMES.index(name), 7, f"{name}:1", "", "") for name in joined}
  kept = Committed(0, part, None, b"", Totals())
  return begin(setting, Roll("run", members, frozenset(final)), kept, 0.0)


def asked(
  state: State, name: str, now: float, *, later: float = 0.0, final: bool = False
) -> tuple[State, dict | None]:
  """The answer to who asks for a turn at a time, when it has waited for a while."""
  data = frames.text({"waiting": True, "final": final})
  state, asking = run_requests.ask(state, name, data, now)
  state, answer = run_requests.turn(state, asking, now + later)
  fields = dict.fromkeys(
    ("state", "turn", "handed", "readable", "lacking", "deserted"), lambda _: True
  )
  return state, frames.read_text(answer, **fields) if answer else None


def handed_over(state: State, now: float) -> State:
  """The present turn is over."""
  turn = state.kept.turn + 1
  handed = Handed(step_id(turn, 0), state.current, "")
  return state.proceed(state.kept._replace(turn=turn, handed=handed), now)


def test_the_first_turn_is_for_all_who_come_in_time():
  state, answer = asked(state_of("a", "b"), "a", 0.0)
  assert answer is None  # the others may come, and who asks may wait
  state, answer = asked(state, "b", 9.0, later=run_requests._LONGEST_POLL)
  assert (answer["state"], state.since) == ("wait", None)
  full, _ = asked(state_of(*NAMES).heard("b", 0.0).heard("c", 0.0), "a", 0.0)
  assert full.since == 0.0
  late, answer = asked(state, "a", 10.1)  # c is awaited for as long as one is patient
  assert (answer["state"], answer["turn"], late.since) == ("yours", 0, 10.1)
  with pytest.raises(UserError, match="'c' has not joined"):
    asked(late, "c", 10.2)


def test_a_turn_passes_from_who_is_silent_to_who_is_there_and_to_nobody_else():
  state = state_of("a", "b", "c")._replace(since=0.0)
  for name in NAMES:
    state = state.heard(name, 5.0)
  assert state.pass_on(15.0) is state
  assert state.pass_on(15.1) is state  # nobody is there who could have it
  state = state.heard("c", 15.0)
  assert state._replace(busy=True).pass_on(15.1).kept.turn == 0
  passed = state.begin_turn().pass_on(15.1)
  assert (passed.kept.turn, passed.kept.totals.passed) == (2, 2)
  assert (passed.working, passed.since, passed.current) == (None, 15.1, "c")
  assert passed.kept.totals.seconds == 15.1
  # Who was restarted in between counts from the next offer on.
  assert handed_over(passed._replace(since=20.0), 22.0).kept.totals.seconds == pytest.approx(17.1)
  assert handed_over(passed._replace(since=None), 22.0).kept.totals.seconds == 15.1
  assert state.kept.turn == 0  # the old one is what it was
  # The last turn of all passes to nobody, and then it is over.
  last = state.keep(state.kept._replace(turn=5, handed=Handed(0, "b", "")))
  over = last._replace(since=0.0).heard("a", 15.0).heard("c", 0.0).pass_on(15.1)
  assert over.done
  assert over.kept.totals.passed == 1


def test_a_word_in_between_keeps_a_turn():
  state = state_of(*NAMES)
  for name in NAMES:
    state = state.heard(name, 0.0)
  state, answer = asked(state, "a", 0.0)
  assert answer["state"] == "yours"
  for now in (8.0, 16.0, 24.0):
    state, _ = asked(state.heard("a", now), "b", now)
    assert (state.current, state.working is None) == ("a", False)
  state, answer = asked(state, "b", 34.1)
  assert (answer["state"], answer["turn"]) == ("yours", 1)


def test_only_who_can_read_the_hand_over_gets_the_next_turn():
  state = handed_over(state_of(*NAMES, peer=False)._replace(since=0.0), 0.0)
  state = state._replace(readers=frozenset("ac"), offered=frozenset("a"))
  for name in NAMES:
    state = state.heard(name, 0.0)
  assert asked(state, "b", 0.0)[1] is None
  assert state.lacking("a") == ["b"]
  assert asked(state, "a", 0.0)[1]["lacking"] == ["b"]  # at once, for others wait for it
  state = state.heard("c", 9.0).heard("a", 9.0)
  passed = state.pass_on(10.1)
  assert passed.current == "c"  # b is silent, and cannot read it


def test_the_end_waits_for_those_who_may_still_want_it():
  state = state_of(*NAMES, final=("a",))
  state = state.keep(state.kept._replace(turn=3 * ROUNDS, handed=Handed(0, "c", "")))
  assert state.done
  assert state.waiting(5.0) == {"b", "c"}  # of before a restart, who may come back
  assert state.waiting(10.1) == frozenset()
  state, answer = asked(state, "b", 9.0)
  assert (answer["state"], answer["deserted"]) == ("done", False)
  assert answer["handed"]["address"] == "c:1"
  state, answer = asked(state, "b", 12.0, final=True)
  assert answer["deserted"]
  assert state.roll.final == {"a", "b"}
  assert state.waiting(12.0) == frozenset()
