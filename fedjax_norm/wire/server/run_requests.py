"""The training request (paper 003, sec. 4): what the run is, who takes part, whose turn it is.

Pure: (the state, who asks, the request, the time) -> the state after it and the answer.
"""

from typing import NamedTuple

import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import fields, frames, seal
from fedjax_norm.wire.protocol.addresses import split_address
from fedjax_norm.wire.protocol.network import check_steps
from fedjax_norm.wire.protocol.turns import STEPS
from fedjax_norm.wire.server.state import Setting, State
from fedjax_norm.wire.server.store import Member

_LONGEST_POLL = 1.0  # seconds
_MOST_EXAMPLES = 2**31


class Asking(NamedTuple):
  """Somebody who asks for a turn, or whose it is.

  Attributes:
    name: who.
    waiting: whether it wants a turn, and has a place.
    until: when it wants an answer at the latest.
  """

  name: str
  waiting: bool
  until: float


def describe(state: State, name: str, data: bytes, now: float) -> tuple[State, bytes]:
  """What the run is; the first thing that a client asks."""
  setting = state.setting
  frames.read_text(data, frames.LONGEST_REQUEST)
  content = {"run": state.roll.run, "clients": list(setting.clients), "told": setting.told}
  return state, frames.text(content)


def join(state: State, name: str, data: bytes, now: float) -> tuple[State, bytes]:
  """A client, or a third party, gives its public key, and a client its place and address."""
  setting, roll = state.setting, state.roll
  member = _member(setting, roll.run, name, data)
  before = roll.members.get(name)
  if before and before.public != member.public:
    raise UserError(
      f"{name!r} has joined this run with another public key; start it with the --workdir that "
      "it began with."
    )
  if before and member.client is None:  # a client that comes back to predict keeps its place
    member = before._replace(announcement=member.announcement)
  members = {**roll.members, name: member}
  after = state._replace(roll=roll._replace(members=members, final=roll.final - {name}))
  # Its certificate may be another, which the last sender may trust.
  return after._replace(offered=state.offered - {name}).heard(name, now), frames.text({})


def _member(setting: Setting, run: str, name: str, data: bytes) -> Member:
  """What somebody says of itself, checked."""
  asked = frames.read_text(
    data,
    frames.LONGEST_REQUEST,
    announcement=fields.string,
    client=fields.optional(fields.whole),
    examples=fields.integer,
    address=fields.string,
  )
  if not fields.text(asked["announcement"]):
    raise UserError(f"{name!r} says more of itself than the {fields.LONGEST} bytes that it may.")
  if asked["address"]:
    split_address(asked["address"])
  elif setting.peer and asked["client"] is not None:
    raise UserError(f"{name!r} gives no address, at which peers could ask it for the weights.")
  who, key = seal.read_announcement(asked["announcement"].encode(), setting.authority, run)
  if who != name:
    raise UserError(f"{name!r} announces a public key of {who!r}; it can only give its own.")
  if asked["client"] is not None:
    _check_place(setting, name, asked["client"])
    _check_size(setting, name, asked["examples"])
  elif asked["examples"] != 0:
    raise UserError(f"{name!r} joins without a place in training, and so with 0 examples.")
  return Member(**asked, public=key.public_bytes_raw().hex())


def _check_place(setting: Setting, name: str, place: int) -> None:
  """Refuses a client that asks for another's place."""
  clients = setting.clients
  own = clients.index(name) if name in clients else None
  if own != place:
    expected = f"is none of {', '.join(clients)}" if own is None else f"has place {own}"
    raise UserError(
      f"{name!r} asks for place {place} and, by its certificate, {expected}; correct --client_id."
    )


def _check_size(setting: Setting, name: str, examples: int) -> None:
  """Refuses a client that would take no step, or too many to count."""
  if examples < 1:
    raise UserError(f"{name!r} has no training examples, so it can take no part.")
  steps = int(setting.network.rules.steps(np.int64(min(examples, _MOST_EXAMPLES))))
  if examples >= _MOST_EXAMPLES or steps >= STEPS:
    raise UserError(
      f"{name!r} has so many examples that a turn would have {STEPS:,} steps or more; "
      "divide them over more clients, or lower --local_epochs."
    )
  check_steps(len(setting.rates), steps)


def ask(state: State, name: str, data: bytes, now: float) -> tuple[State, Asking]:
  """Whose turn it is, and who trained last; waits a little for the asker's own."""
  asked = frames.read_text(data, frames.LONGEST_REQUEST, final=fields.flag, waiting=fields.flag)
  roll = state.roll
  if name not in roll.members:
    raise UserError(f"{name!r} has not joined.")
  if asked["final"] and name not in roll.final:
    state = state._replace(roll=roll._replace(final=roll.final | {name}))
  waiting = asked["waiting"] and state.takes_part(name)
  poll = min(_LONGEST_POLL, state.setting.patience / 4) if waiting else 0.0
  return state.heard(name, now), Asking(name, waiting, now + poll)


def turn(state: State, asking: Asking, now: float) -> tuple[State, bytes | None]:
  """The answer to who asks for a turn; None as long as it may wait for a better one."""
  name, state = asking.name, state.offer(now).pass_on(now)
  mine = asking.waiting and not state.done and state.current == name and state.can_begin
  lacking = state.lacking(name)
  if not (mine or state.done or lacking or now >= asking.until):
    return state, None
  if mine:
    state = state.begin_turn().heard(name, now)
  handed = state.kept.handed
  if handed:  # its address may have changed since
    handed = handed._replace(address=state.roll.members[handed.sender].address)
  content = {
    "state": "done" if state.done else "yours" if mine else "wait",
    "turn": state.kept.turn,
    "handed": handed._asdict() if handed else None,
    "readable": state.can_read(name),
    "lacking": lacking,
    "deserted": not (state.waiting(now) - {name}),
  }
  return state, frames.text(content)
