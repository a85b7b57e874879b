"""Answers training requests (paper 003, sec. 4): for the settings, to join, and for a turn.

The requests are pure functions of the server's state, the caller's name, the bytes of the request
and the time in seconds. They return the new state and the bytes of the answer.
"""

from typing import NamedTuple

import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import encryption, fields, frames
from fedjax_norm.wire.protocol.addresses import split_address
from fedjax_norm.wire.protocol.network import check_steps
from fedjax_norm.wire.protocol.step_ids import MAX_STEPS
from fedjax_norm.wire.server.state import RunSettings, RunState
from fedjax_norm.wire.server.store import Member

_LONGEST_POLL = 1.0  # seconds that the server delays an answer to a client that waits for its turn
_MAX_EXAMPLES = 2**31


class TurnRequest(NamedTuple):
  """A request for a turn.

  Attributes:
    name: name of the party.
    waiting: whether the party is a client that wants a turn.
    deadline: latest time of the answer.
  """

  name: str
  waiting: bool
  deadline: float


def describe(state: RunState, name: str, data: bytes, now: float) -> tuple[RunState, bytes]:
  """Answers a party's first request: with the run's name, clients and settings."""
  settings = state.settings
  frames.decode_json(data, frames.MAX_REQUEST_BYTES)
  content = {"run": state.membership.run, "clients": list(settings.clients)}
  return state, frames.encode_json({**content, "told": settings.client_settings})


def join(state: RunState, name: str, data: bytes, now: float) -> tuple[RunState, bytes]:
  """Adds a client, or a third party that only predicts, to the run."""
  settings, membership = state.settings, state.membership
  member = _read_member(settings, membership.run, name, data)
  before = membership.members.get(name)
  if before and before.public != member.public:
    raise UserError(
      f"{name!r} has joined this run with another public key; start it with the --workdir that it "
      "used at first."
    )
  if before and member.client is None:  # a client that returns to predict remains a client
    member = before._replace(announcement=member.announcement)
  members = {**membership.members, name: member}
  after = membership._replace(members=members, final=membership.final - {name})
  # The party may have a new certificate, which the last sender may trust.
  state = state._replace(membership=after, sender_keys=state.sender_keys - {name})
  return state.heard_from(name, now), frames.encode_json({})


def _read_member(settings: RunSettings, run: str, name: str, data: bytes) -> Member:
  """Checks a request to join and returns the party that it describes."""
  text, whole = fields.string, fields.optional(fields.whole)
  checks = {"announcement": text, "client": whole, "examples": fields.integer, "address": text}
  request = frames.decode_json(data, frames.MAX_REQUEST_BYTES, **checks)
  announcement, index = request["announcement"], request["client"]
  if not fields.text(announcement):
    raise UserError(
      f"{name!r} sends an announcement of more than the {fields.MAX_TEXT_BYTES} bytes allowed."
    )
  if request["address"]:
    split_address(request["address"])
  elif settings.peer and index is not None:
    raise UserError(f"{name!r} gives no address at which other clients could fetch the weights.")
  owner, key = encryption.read_announcement(announcement.encode(), settings.authority, run)
  if owner != name:
    raise UserError(
      f"{name!r} announces a public key of {owner!r}; a party can only announce its key."
    )
  if index is not None:
    clients = settings.clients
    expected = clients.index(name) if name in clients else None
    if expected != index:
      known = f"is none of {', '.join(clients)}" if expected is None else f"is client {expected}"
      raise UserError(
        f"{name!r} asks to be client {index} but, by its certificate, {known}; correct --client_id."
      )
    _check_size(settings, name, request["examples"])
  elif request["examples"] != 0:
    raise UserError(f"{name!r} joins to predict only, so it must have 0 examples.")
  return Member(**request, public=key.public_bytes_raw().hex())


def _check_size(settings: RunSettings, name: str, examples: int) -> None:
  """Raises ``UserError`` for a client that would take no step, or more than can be counted."""
  if examples < 1:
    raise UserError(f"{name!r} has no training examples, so it cannot take part.")
  steps = int(settings.network.rules.steps(np.int64(min(examples, _MAX_EXAMPLES))))
  if examples >= _MAX_EXAMPLES or steps >= MAX_STEPS:
    raise UserError(
      f"{name!r} has too many examples: a turn would have {MAX_STEPS:,} steps or more; divide them "
      "over more clients, or lower --local_epochs at the server."
    )
  check_steps(len(settings.rates), steps)


def ask_turn(state: RunState, name: str, data: bytes, now: float) -> tuple[RunState, TurnRequest]:
  """Reads a request for a turn, which :func:`answer_turn` answers by the request's deadline."""
  checks = {"final": fields.flag, "waiting": fields.flag}
  content = frames.decode_json(data, frames.MAX_REQUEST_BYTES, **checks)
  membership = state.membership
  if name not in membership.members:
    raise UserError(f"{name!r} has not joined this run; start its client again.")
  if content["final"] and name not in membership.final:
    state = state._replace(membership=membership._replace(final=membership.final | {name}))
  waiting = content["waiting"] and state.is_client(name)
  poll = min(_LONGEST_POLL, state.settings.patience / 4) if waiting else 0.0
  return state.heard_from(name, now), TurnRequest(name, waiting, now + poll)


def answer_turn(state: RunState, request: TurnRequest, now: float) -> tuple[RunState, bytes | None]:
  """Answers a request for a turn; the answer is None while the caller has to wait for its turn."""
  name, state = request.name, state.offer_first_turn(now).pass_on(now)
  is_current = request.waiting and not state.done and state.current_client == name
  has_turn = is_current and state.can_start_turn
  missing = state.missing_receivers(name)
  if not (has_turn or state.done or missing or now >= request.deadline):
    return state, None
  if has_turn:
    state = state.begin_turn().heard_from(name, now)
  hand_over = state.committed.hand_over
  if hand_over:  # the sender's address may have changed
    sender = state.membership.members[hand_over.sender]
    hand_over = hand_over._replace(address=sender.address)
  content = {
    "state": "done" if state.done else "yours" if has_turn else "wait",
    "turn": state.committed.turn,
    "handed": hand_over._asdict() if hand_over else None,
    "readable": state.can_read(name),
    "lacking": missing,
    "deserted": not (state.waiting(now) - {name}),
  }
  return state, frames.encode_json(content)
