"""Weight update (paper 003, sec. 4): the hand-over after a turn, which Bob keeps and cannot read.

Pure, as :mod:`fedjax_norm.wire.server.run_requests`.
"""

import math

from fedjax_norm.errors import DivergedError
from fedjax_norm.wire.protocol import fields, frames, seal
from fedjax_norm.wire.protocol.frames import SEALED, FrameError
from fedjax_norm.wire.protocol.network import finite
from fedjax_norm.wire.protocol.refusals import OutOfOrderError
from fedjax_norm.wire.protocol.turns import step_id
from fedjax_norm.wire.server.state import State
from fedjax_norm.wire.server.store import Committed, Handed


def members(state: State, name: str, data: bytes, now: float) -> tuple[State, bytes]:
  """The public keys of all who have joined, as they signed them."""
  frames.read_text(data, frames.LONGEST_REQUEST)
  joined = state.roll.members
  told = {**state.told, name: frozenset(joined)}
  content = {"members": {other: member.announcement for other, member in joined.items()}}
  return state._replace(told=told), frames.text(content)


def put(state: State, name: str, data: bytes, now: float) -> tuple[State, bytes]:
  """The hand-over after a turn, sealed, or word that it is to be had from its sender."""
  peer, kept, working = state.setting.peer, state.kept, state.working
  frame = frames.decode(data, state.setting.limit)
  if peer:
    frames.expect(frame, SEALED)
  else:
    receivers = seal.receivers_of(seal.check_sealed(frame))
    if name not in receivers:
      raise FrameError(f"a hand-over of {name!r} is not sealed for itself, who may need it again.")
    if strangers := receivers - set(state.roll.members):
      raise FrameError(f"a hand-over is sealed for {min(strangers)!r}, who has not joined.")
  answer, sealed = frames.text({}), b"" if peer else data
  offered = state.told.get(name, frozenset())
  if kept.handed and (kept.handed.step, kept.handed.sender) == (frame.step, name):
    # A repeated request, or the same for more receivers.
    return state.keep(kept._replace(sealed=sealed))._replace(offered=offered), answer
  if working is None or name != state.current:
    raise OutOfOrderError(f"it is not {name!r}'s turn, so that its hand-over is out of order.")
  if frame.step != step_id(kept.turn + 1, 0) or not state.turn_over:
    raise OutOfOrderError(f"a hand-over is out of order: {state.described(working.step)} is next.")
  if not (finite(working.part) and math.isfinite(working.totals.loss)):
    raise DivergedError(
      f"the server's part or loss is not finite after the turn of {name!r}, which does not count: "
      "training has diverged, or what was sent is wrong; lower the learning rate or look at "
      "the data."
    )
  up, down = working.got
  totals = working.totals.carried(up + len(data), down + len(answer))
  totals = totals._replace(turns=totals.turns + 1)
  handed = Handed(frame.step, name, "")
  after = state.proceed(Committed(kept.turn + 1, working.part, handed, sealed, totals), now)
  return after._replace(offered=offered), answer


def get(state: State, name: str, data: bytes, now: float) -> tuple[State, bytes]:
  """The last hand-over, as its sender sealed it for the asker."""
  asked = frames.read_text(data, frames.LONGEST_REQUEST, step=fields.whole)
  handed, working = state.kept.handed, state.working
  if not handed or handed.step != asked["step"] or state.setting.peer:
    raise OutOfOrderError("that hand-over is not the last one, which alone is kept here.")
  if name not in state.readers:
    raise OutOfOrderError(f"the last hand-over is not sealed for {name!r} yet.")
  answer = frames.encode(seal.addressed(frames.decode(state.kept.sealed), name))
  if working is not None and name == state.current:
    state = state._replace(working=working._replace(got=(len(data), len(answer))))
  return state, answer
