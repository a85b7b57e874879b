"""Answers tensor transmissions (paper 003, sec. 4): the local steps of a turn, and inference.

Pure functions of the server's state. For a step, :func:`match_step` checks the request,
:func:`compute` runs, and :func:`after_step` updates the state, which may have changed meanwhile.
"""

import hashlib
from typing import NamedTuple

from fedjax_norm.errors import UserError
from fedjax_norm.split.algorithm import turn_key
from fedjax_norm.split.parties import Part
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.frames import Frame
from fedjax_norm.wire.protocol.remote_errors import OutOfOrderError
from fedjax_norm.wire.protocol.step_ids import step_id
from fedjax_norm.wire.server import server_step
from fedjax_norm.wire.server.server_step import RequestResult
from fedjax_norm.wire.server.state import ActiveTurn, RunState


class StepRequest(NamedTuple):
  """A client's request in a local step.

  Attributes:
    method: ``Forward`` or ``Backward``.
    name: name of the client.
    frame: content of the request.
    digest: SHA-256 of the request's bytes.
    size: number of bytes in the request.
  """

  method: str
  name: str
  frame: Frame
  digest: bytes
  size: int


def read(method: str, name: str, data: bytes, limit: int) -> StepRequest:
  """Decodes a request; raises ``FrameError`` if it is malformed or has over ``limit`` bytes."""
  frame = frames.decode(data, limit)
  return StepRequest(method, name, frame, hashlib.sha256(data).digest(), len(data))


def match_step(state: RunState, request: StepRequest) -> ActiveTurn:
  """Returns the active turn if the request is the next one in it or repeats the last one.

  Other requests raise ``OutOfOrderError``.
  """
  method, name, step = request.method, request.name, request.frame.step
  active = state.active
  if active is None or state.done or name != state.current_client:
    raise OutOfOrderError(
      f"it is not {name!r}'s turn, so its step is out of order; ask for the next turn."
    )
  expected = "Forward" if active.pending is None else "Backward"
  if not _is_repeated(active, request) and (step, method) != (active.step, expected):
    raise OutOfOrderError(
      f"{method} of {state.describe_step(step)} is out of order: {expected} of "
      f"{state.describe_step(active.step)} is next."
    )
  return active


def repeated_answer(state: RunState, active: ActiveTurn, request: StepRequest) -> bytes | None:
  """Returns the stored answer if the last request is repeated, or None for a new request.

  Raises ``UserError`` if the content differs from that of the first request.
  """
  if active.last_answer is None or not _is_repeated(active, request):
    return None
  *_, digest, answer = active.last_answer
  if digest != request.digest:
    step = state.describe_step(request.frame.step)
    raise UserError(
      f"{request.name!r} sent {step} again with other content; restart it with the first data and "
      "seed."
    )
  return answer


def _is_repeated(active: ActiveTurn, request: StepRequest) -> bool:
  step = request.method, request.frame.step
  return active.last_answer is not None and active.last_answer[:2] == step


def compute(state: RunState, active: ActiveTurn, frame: Frame) -> RequestResult:
  """Computes the server's half of a step: its forward pass, its backward pass, or both."""
  settings, position = state.settings, state.position(active.step)
  rate = settings.rates[position.round]
  if active.pending is not None:
    return server_step.backward(settings.network, active.part, active.pending, rate, frame)
  key = turn_key(settings.key, position.round, position.client)
  return server_step.forward(settings.network, active.part, position, key, rate, frame)


def after_step(
  state: RunState, active: ActiveTurn, request: StepRequest, result: RequestResult, answer: bytes
) -> RunState:
  """Returns the state after a step; raises ``OutOfOrderError`` if the turn has ended meanwhile."""
  if state.active is not active:
    raise OutOfOrderError(
      f"{request.name!r} has restarted or lost its turn, so this step is out of order."
    )
  totals, metrics = active.totals.add_bytes(request.size, len(answer)), result.metrics
  after = ActiveTurn(
    part=result.part,
    step=active.step + (result.pending is None),
    pending=result.pending,
    last_answer=(request.method, request.frame.step, request.digest, answer),
    totals=totals._replace(
      steps=totals.steps + (result.pending is None),
      loss=totals.loss + float(metrics.loss),
      correct=totals.correct + float(metrics.correct),
      examples=totals.examples + int(metrics.examples),
    ),
    fetched=active.fetched,
  )
  return state._replace(active=after)


def inference_part(state: RunState, name: str, step: int) -> Part:
  """Returns the server's weights that fit a party's weights, trained until just before ``step``.

  Raises ``OutOfOrderError`` if the party's weights are older than the last hand-over.
  """
  active, hand_over = state.active, state.committed.hand_over
  finished_turn = active is not None and name == state.current_client and state.steps_done
  if active and finished_turn and step == step_id(state.committed.turn + 1, 0):
    return active.part
  if hand_over and step == hand_over.step:
    return state.committed.part
  raise OutOfOrderError(
    "these activations do not come from the weights of the last hand-over; fetch it again."
  )
