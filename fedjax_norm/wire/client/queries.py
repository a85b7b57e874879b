"""A client's questions to the server: the run's settings, joining the run, and the turns."""

from typing import Any, NamedTuple

from fedjax_norm.wire.protocol import fields, frames
from fedjax_norm.wire.protocol.caller import Caller
from fedjax_norm.wire.server import store
from fedjax_norm.wire.server.store import HandOver


class RunInfo(NamedTuple):
  """The server's description of the run.

  Attributes:
    run: name of the run.
    clients: names on the clients' certificates, in the order of their turns.
    settings: the settings that the server decides.
  """

  run: str
  clients: list[str]
  settings: dict[str, Any]


class TurnInfo(NamedTuple):
  """The server's answer about the turns.

  Attributes:
    state: ``yours``, ``wait`` or ``done``.
    turn: number of the current turn.
    hand_over: the last hand-over, or None.
    readable: whether the last hand-over is sealed for the caller.
    reseal: whether the caller has to seal its hand-over for members that joined later.
    nobody_waits: whether no other present party lacks the last hand-over.
  """

  state: str
  turn: int
  hand_over: HandOver | None
  readable: bool
  reseal: bool
  nobody_waits: bool


def describe(call: Caller, limit: int) -> RunInfo:
  """Returns the server's description of the run."""
  answer = frames.decode_json(
    call("Describe", frames.encode_json({})),
    limit,
    run=store.is_run,
    clients=fields.list_of(fields.name),
    told=fields.mapping_of(fields.setting),
  )
  return RunInfo(answer["run"], answer["clients"], answer["told"])


def join(
  call: Caller, announcement: bytes, client: int | None, examples: int, address: str
) -> None:
  """Joins the run (see ``server.store.Member`` for the fields)."""
  content = {"client": client, "examples": examples, "address": address}
  request = frames.encode_json({**content, "announcement": announcement.decode()})
  frames.decode_json(call("Join", request), frames.MAX_REQUEST_BYTES)


def ask_turn(call: Caller, limit: int, *, waiting: bool, final: bool = False) -> TurnInfo:
  """Asks for a turn, and for the last hand-over.

  Args:
    call: calls the server.
    limit: largest number of bytes in the answer.
    waiting: whether the caller wants a turn.
    final: whether the caller has the last hand-over of the run.
  """
  answer = frames.decode_json(
    call("Turn", turn_request(waiting=waiting, final=final)),
    limit,
    state=fields.one_of("yours", "wait", "done"),
    turn=fields.whole,
    handed=fields.optional(store.is_hand_over),
    readable=fields.flag,
    lacking=fields.list_of(fields.name),
    deserted=fields.flag,
  )
  return TurnInfo(
    answer["state"],
    answer["turn"],
    HandOver(**answer["handed"]) if answer["handed"] else None,
    answer["readable"],
    bool(answer["lacking"]),
    answer["deserted"],
  )


def turn_request(*, waiting: bool, final: bool = False) -> bytes:
  """Returns the bytes of a request for a turn."""
  return frames.encode_json({"waiting": waiting, "final": final})
