"""What a client asks the server of the run: what it is, to join it, and whose turn it is."""

from typing import Any, NamedTuple

from fedjax_norm.wire.protocol import fields, frames
from fedjax_norm.wire.protocol.transport import Caller
from fedjax_norm.wire.server import store
from fedjax_norm.wire.server.store import Handed


class Described(NamedTuple):
  """What the server says of the run.

  Attributes:
    run: its name.
    clients: the names on the certificates of the clients, in the order of their turns.
    told: the settings that the server decides.
  """

  run: str
  clients: list[str]
  told: dict[str, Any]


class Asked(NamedTuple):
  """What the server says of the turns.

  Attributes:
    state: ``yours``, ``wait`` or ``done``.
    turn: the present one.
    handed: the last hand-over, if there was any.
    readable: whether it is sealed for the asker.
    lacking: whether the asker has to seal it for others who have joined since.
    deserted: whether nobody else is there who still waits for it.
  """

  state: str
  turn: int
  handed: Handed | None
  readable: bool
  lacking: bool
  deserted: bool


def describe(call: Caller, limit: int) -> Described:
  """Asks what the run is.

  Args:
    call: the server.
    limit: the most bytes of a message.
  """
  answer = frames.read_text(
    call("Describe", frames.text({})),
    limit,
    run=store.is_run,
    clients=fields.listed(fields.name),
    told=fields.mapping(fields.setting),
  )
  return Described(**answer)


def join(
  call: Caller, announcement: bytes, client: int | None, examples: int, address: str
) -> None:
  """Joins a run.

  Args:
    call: the server.
    announcement: of the public key.
    client: the place among the clients, or None for a third party.
    examples: of training; a third party has 0.
    address: where peers may ask, or ''.
  """
  content = {"client": client, "examples": examples, "address": address}
  request = frames.text({**content, "announcement": announcement.decode()})
  frames.read_text(call("Join", request), frames.LONGEST_REQUEST)


def ask(call: Caller, limit: int, *, waiting: bool, final: bool = False) -> Asked:
  """Asks whose turn it is, and who trained last.

  Args:
    call: the server.
    limit: the most bytes of a message.
    waiting: whether the asker wants a turn.
    final: whether it has the last hand-over of all.
  """
  answer = frames.read_text(
    call("Turn", asking(waiting=waiting, final=final)),
    limit,
    state=fields.one_of("yours", "wait", "done"),
    turn=fields.whole,
    handed=fields.optional(store.is_handed),
    readable=fields.flag,
    lacking=fields.listed(fields.name),
    deserted=fields.flag,
  )
  handed = Handed(**answer["handed"]) if answer["handed"] else None
  return Asked(**{**answer, "handed": handed, "lacking": bool(answer["lacking"])})


def asking(*, waiting: bool, final: bool = False) -> bytes:
  """The request that asks for a turn."""
  return frames.text({"waiting": waiting, "final": final})
