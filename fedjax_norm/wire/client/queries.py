"""A client's requests to the server for the run's settings, to join the run, and for a turn."""

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
    settings: values of the options that the server decides for all clients, by name.
  """

  run: str
  clients: list[str]
  settings: dict[str, Any]


class TurnInfo(NamedTuple):
  """The server's answer to a request for a turn.

  Attributes:
    state: ``yours`` (the caller has the turn), ``wait``, or ``done`` (all turns are over).
    turn: number of the current turn, from 0, counted over all clients.
    hand_over: description of the last hand-over, or None before the first.
    readable: whether the caller can decrypt the last hand-over.
    reseal: whether the caller must encrypt its hand-over again, for parties that joined later.
    nobody_waits: whether every other party that still sends requests has the last hand-over.
  """

  state: str
  turn: int
  hand_over: HandOver | None
  readable: bool
  reseal: bool
  nobody_waits: bool


def describe(call: Caller, limit: int) -> RunInfo:
  """Returns the server's description of the run."""
  data, names = call("Describe", frames.encode_json({})), fields.list_of(fields.name)
  settings = fields.mapping_of(fields.setting)
  info = frames.decode_json(data, limit, run=store.is_run, clients=names, told=settings)
  return RunInfo(info["run"], info["clients"], info["told"])


def join(
  call: Caller, announcement: bytes, client: int | None, examples: int, address: str
) -> None:
  """Joins the run as a client, or to predict only if ``client`` is None.

  The arguments after ``call`` are fields of :class:`fedjax_norm.wire.server.store.Member`.
  """
  content = {"client": client, "examples": examples, "address": address}
  request = frames.encode_json({**content, "announcement": announcement.decode()})
  frames.decode_json(call("Join", request), frames.MAX_REQUEST_BYTES)


def ask_turn(call: Caller, limit: int, *, waiting: bool, final: bool = False) -> TurnInfo:
  """Asks who has the turn, and for a description of the last hand-over.

  Args:
    call: calls the server.
    limit: largest number of bytes in the answer.
    waiting: whether the caller wants a turn; the server may then delay the answer.
    final: whether the caller has the last hand-over of the run and needs nothing more.
  """
  info = frames.decode_json(
    call("Turn", turn_request(waiting=waiting, final=final)),
    limit,
    state=fields.one_of("yours", "wait", "done"),
    turn=fields.whole,
    handed=fields.optional(store.is_hand_over),
    readable=fields.flag,
    lacking=fields.list_of(fields.name),
    deserted=fields.flag,
  )
  handed = HandOver(**info["handed"]) if info["handed"] else None
  return TurnInfo(
    info["state"], info["turn"], handed, info["readable"], bool(info["lacking"]), info["deserted"]
  )


def turn_request(*, waiting: bool, final: bool = False) -> bytes:
  """Returns the bytes of a request for a turn (see :func:`ask_turn`)."""
  return frames.encode_json({"waiting": waiting, "final": final})
