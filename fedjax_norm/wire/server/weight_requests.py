"""Answers weight updates (paper 003, sec. 4): the hand-over after a turn, which is encrypted.

Pure functions, with the arguments of :mod:`fedjax_norm.wire.server.run_requests`.
"""

import math

from fedjax_norm.errors import DivergedError
from fedjax_norm.wire.protocol import encryption, fields, frames
from fedjax_norm.wire.protocol.frames import SEALED, FrameError
from fedjax_norm.wire.protocol.network import all_finite
from fedjax_norm.wire.protocol.remote_errors import OutOfOrderError
from fedjax_norm.wire.protocol.step_ids import step_id
from fedjax_norm.wire.server.state import RunState
from fedjax_norm.wire.server.store import Committed, HandOver


def members(state: RunState, name: str, data: bytes, now: float) -> tuple[RunState, bytes]:
  """Answers with the announcements (signed public keys) of all parties that joined."""
  frames.decode_json(data, frames.MAX_REQUEST_BYTES)
  joined = state.membership.members
  content = {"members": {other: member.announcement for other, member in joined.items()}}
  keys_sent = {**state.keys_sent, name: frozenset(joined)}
  return state._replace(keys_sent=keys_sent), frames.encode_json(content)


def put(state: RunState, name: str, data: bytes, now: float) -> tuple[RunState, bytes]:
  """Stores the hand-over that ends a turn; with --hand_over=peer it has only the step number."""
  peer, committed, active = state.settings.peer, state.committed, state.active
  frame = frames.decode(data, state.settings.limit)
  if peer:
    frames.check_frame(frame, SEALED)
  else:
    receivers = encryption.receivers_of(encryption.check_sealed(frame))
    if name not in receivers:
      raise FrameError(f"a hand-over is not encrypted for its sender {name!r}, who may need it.")
    if strangers := receivers - set(state.membership.members):
      raise FrameError(f"a hand-over is encrypted for {min(strangers)!r}, who has not joined.")
  answer, sealed = frames.encode_json({}), b"" if peer else data
  sender_keys, last = state.keys_sent.get(name, frozenset()), committed.hand_over
  if last and (last.step, last.sender) == (frame.step, name):
    # A repeated request, or the same hand-over sealed for more receivers.
    after = state.commit(committed._replace(sealed=sealed))
    return after._replace(sender_keys=sender_keys), answer
  if active is None or name != state.current_client:
    raise OutOfOrderError(f"it is not {name!r}'s turn, so its hand-over is out of order.")
  if frame.step != step_id(committed.turn + 1, 0) or not state.steps_done:
    raise OutOfOrderError(
      f"a hand-over is out of order: {state.describe_step(active.step)} is next."
    )
  if not (all_finite(active.part) and math.isfinite(active.totals.loss)):
    raise DivergedError(
      f"the server's state is not finite after the turn of {name!r}, which does not count: "
      "training has diverged, or the client sent wrong data; lower --lr at the server, or check "
      "the client's data."
    )
  up, down = active.fetched
  totals = active.totals.add_bytes(up + len(data), down + len(answer))
  totals = totals._replace(turns=totals.turns + 1)
  hand_over = HandOver(frame.step, name, "")
  after = state.advance(Committed(committed.turn + 1, active.part, hand_over, sealed, totals), now)
  return after._replace(sender_keys=sender_keys), answer


def get(state: RunState, name: str, data: bytes, now: float) -> tuple[RunState, bytes]:
  """Answers with the last hand-over, encrypted for the caller."""
  request = frames.decode_json(data, frames.MAX_REQUEST_BYTES, step=fields.whole)
  hand_over, active = state.committed.hand_over, state.active
  if not hand_over or hand_over.step != request["step"] or state.settings.peer:
    raise OutOfOrderError("this is not the last hand-over, the only one that the server stores.")
  if name not in state.readers:
    raise OutOfOrderError(f"the last hand-over is not sealed for {name!r} yet.")
  answer = frames.encode(encryption.for_receiver(frames.decode(state.committed.sealed), name))
  if active is not None and name == state.current_client:
    state = state._replace(active=active._replace(fetched=(len(data), len(answer))))
  return state, answer
