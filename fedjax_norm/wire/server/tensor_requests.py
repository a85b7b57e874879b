"""Tensor transmission (paper 003, sec. 4): the steps of a turn, taken once each, and inference.

Pure: what a request is answered is computed between :func:`find` and :func:`taken`, for which no
state has to stand still.
"""

import hashlib
from typing import NamedTuple

from fedjax_norm.errors import UserError
from fedjax_norm.split.algorithm import key_of_turn
from fedjax_norm.split.parties import Part
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.frames import Frame
from fedjax_norm.wire.protocol.refusals import OutOfOrderError
from fedjax_norm.wire.protocol.turns import step_id
from fedjax_norm.wire.server import body
from fedjax_norm.wire.server.body import Computed
from fedjax_norm.wire.server.state import State, Working


class Request(NamedTuple):
  """One half or all of a step.

  Attributes:
    method: ``Forward`` or ``Backward``.
    name: whose.
    frame: its content.
    digest: of it.
    size: in bytes.
  """

  method: str
  name: str
  frame: Frame
  digest: bytes
  size: int


def read(method: str, name: str, data: bytes, limit: int) -> Request:
  """A request from its bytes.

  Raises:
    FrameError: they are none.
  """
  frame = frames.decode(data, limit)
  return Request(method, name, frame, hashlib.sha256(data).digest(), len(data))


def find(state: State, request: Request) -> Working:
  """The turn that a step belongs to, of which it is the next one or the last again.

  Raises:
    OutOfOrderError: there is none.
  """
  method, name, step = request.method, request.name, request.frame.step
  working = state.working
  if working is None or state.done or name != state.current:
    raise OutOfOrderError(
      f"it is not {name!r}'s turn, so that its step is out of order; ask for the next turn."
    )
  awaited = "Forward" if working.way is None else "Backward"
  if not _again(working, request) and (step, method) != (working.step, awaited):
    raise OutOfOrderError(
      f"{method} of {state.described(step)} is out of order: {awaited} of "
      f"{state.described(working.step)} is next."
    )
  return working


def answered(state: State, working: Working, request: Request) -> bytes | None:
  """The answer of the last request, if this is it again.

  Raises:
    UserError: it has another content.
  """
  if working.answered is None or not _again(working, request):
    return None
  *_, digest, answer = working.answered
  if digest != request.digest:
    step = state.described(request.frame.step)
    raise UserError(f"{request.name!r} repeats {step} with other content, which is refused.")
  return answer


def _again(working: Working, request: Request) -> bool:
  step = request.method, request.frame.step
  return working.answered is not None and working.answered[:2] == step


def compute(state: State, working: Working, frame: Frame) -> Computed:
  """What a step's tensors are answered, and what of the turn is other then."""
  setting, moment = state.setting, state.moment(working.step)
  rate = setting.rates[moment.round]
  if working.way is not None:
    return body.backward(setting.network, working.part, working.way, rate, frame)
  key = key_of_turn(setting.key, moment.round, moment.client)
  return body.forward(setting.network, working.part, moment, key, rate, frame)


def taken(
  state: State, working: Working, request: Request, computed: Computed, answer: bytes
) -> State:
  """After a step.

  Args:
    state: of now.
    working: the turn as it was before.
    request: that was answered.
    computed: for it.
    answer: that it gets.

  Raises:
    OutOfOrderError: the turn has begun anew in between, or passed on.
  """
  if state.working is not working:
    raise OutOfOrderError(
      f"{request.name!r} has begun its turn anew, so that this step is out of order."
    )
  totals, metrics = working.totals.carried(request.size, len(answer)), computed.metrics
  after = Working(
    part=computed.part,
    step=working.step + (computed.way is None),
    way=computed.way,
    answered=(request.method, request.frame.step, request.digest, answer),
    totals=totals._replace(
      steps=totals.steps + (computed.way is None),
      loss=totals.loss + float(metrics.loss),
      correct=totals.correct + float(metrics.correct),
      examples=totals.examples + int(metrics.examples),
    ),
    got=working.got,
  )
  return state._replace(working=after)


def part_for(state: State, name: str, step: int) -> Part:
  """Bob's part that fits a hand-over, or that of a turn that is yet to be handed over.

  Args:
    state: of now.
    name: who infers.
    step: the first that is not in the hand-over.

  Raises:
    OutOfOrderError: the hand-over is an older one.
  """
  working, handed = state.working, state.kept.handed
  own = working is not None and name == state.current and state.turn_over
  if working and own and step == step_id(state.kept.turn + 1, 0):
    return working.part
  if handed and step == handed.step:
    return state.kept.part
  raise OutOfOrderError(
    "the weights that these activations come from are not those of the last hand-over; fetch it "
    "again."
  )
