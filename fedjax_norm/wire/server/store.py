"""What Bob keeps on the disk: who has joined, and the state after the last turn."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_norm.errors import UserError
from fedjax_norm.split.parties import Part
from fedjax_norm.wire.protocol import fields, frames, private_files, seal
from fedjax_norm.wire.protocol.frames import STATE, Frame, FrameError

_MEMBERS, _STATE = "members.json", "state.frame"
_RUN = re.compile("[0-9a-f]{32}")


class Member(NamedTuple):
  """Somebody who has joined.

  Attributes:
    client: the place among the clients, or None for a third party.
    examples: of training.
    address: where peers may ask, or ''.
    announcement: of the public key, signed.
    public: that key, hexadecimal.
  """

  client: int | None
  examples: int
  address: str
  announcement: str
  public: str


class Roll(NamedTuple):
  """Who takes part in a run.

  Attributes:
    run: its name.
    members: by the names on their certificates.
    final: who has the last hand-over of all.
  """

  run: str
  members: Mapping[str, Member]
  final: frozenset[str]


class Totals(NamedTuple):
  """What has happened, as it is told.

  Attributes:
    steps: taken.
    turns: completed.
    passed: turns that passed to another client.
    up: bytes of completed turns' steps and hand-overs, to Bob.
    down: from him.
    loss: the sum over the present round's examples; Bob does not know it in the U-shape.
    correct: of them.
    examples: of them.
    seconds: between the offer of a turn and its end, of all turns.
  """

  steps: int = 0
  turns: int = 0
  passed: int = 0
  up: int = 0
  down: int = 0
  loss: float = 0.0
  correct: float = 0.0
  examples: int = 0
  seconds: float = 0.0

  def carried(self, up: int, down: int) -> "Totals":
    """With some bytes more, each way."""
    return self._replace(up=self.up + up, down=self.down + down)


class Handed(NamedTuple):
  """The last hand-over.

  Attributes:
    step: the first that is not in it.
    sender: who made it.
    address: where its sender answers peers; '' where Bob keeps it.
  """

  step: int
  sender: str
  address: str


is_handed = fields.record(step=fields.whole, sender=fields.name, address=fields.address)
"""Checks a hand-over as JSON has it."""


class Committed(NamedTuple):
  """The state after a turn.

  Attributes:
    turn: the next one.
    part: Bob's, as the hand-over fits it.
    handed: the last hand-over; None before the first.
    sealed: it, unless it stays with its sender.
    totals: so far.
  """

  turn: int
  part: Part
  handed: Handed | None
  sealed: bytes
  totals: Totals

  def of_new_round(self) -> "Committed":
    """The same, with no examples in its round yet."""
    return self._replace(totals=self.totals._replace(loss=0.0, correct=0.0, examples=0))


def is_run(value: Any) -> bool:
  """Whether a value can be the name of a run, which a new one draws."""
  return isinstance(value, str) and _RUN.fullmatch(value) is not None


def write_roll(folder: Path, roll: Roll) -> None:
  """Replaces what the disk says of who takes part."""
  members = {name: member._asdict() for name, member in roll.members.items()}
  content = {"run": roll.run, "members": members, "final": sorted(roll.final)}
  private_files.replace(folder / _MEMBERS, (json.dumps(content, indent=2) + "\n").encode())


def read_roll(folder: Path) -> Roll | None:
  """The inverse; None in a folder without.

  Raises:
    UserError: the file is damaged.
  """
  path = folder / _MEMBERS
  if not path.exists():
    return None
  try:
    content = frames.parse(
      path.read_bytes(),
      run=is_run,
      members=fields.mapping(
        fields.record(
          client=fields.optional(fields.whole),
          examples=fields.whole,
          address=fields.address,
          announcement=fields.text,
          public=fields.text,
        )
      ),
      final=fields.listed(fields.name),
    )
  except FrameError as error:
    raise _damaged(path, error) from error
  members = {name: Member(**member) for name, member in content["members"].items()}
  return Roll(content["run"], members, frozenset(content["final"]))


def write_state(folder: Path, committed: Committed) -> None:
  """Replaces the state on the disk, whole or not at all."""
  handed = committed.handed._asdict() if committed.handed else None
  head = {"turn": committed.turn, "handed": handed, "totals": committed.totals._asdict()}
  content = {
    **frames.named(committed.part),
    "json": frames.from_bytes(json.dumps(head).encode()),
    "sealed": frames.from_bytes(committed.sealed),
  }
  private_files.replace(folder / _STATE, frames.encode(Frame(STATE, committed.turn, content)))


def read_state(folder: Path, start: Part) -> Committed | None:
  """The inverse; None in a folder without.

  Args:
    folder: Bob's.
    start: a part of the same shapes.

  Raises:
    UserError: the file is damaged or of another model.
  """
  path = folder / _STATE
  if not path.exists():
    return None
  try:
    frame = frames.decode(path.read_bytes())
    tensors = dict(frame.tensors)
    head = frames.parse(
      tensors.pop("json").tobytes(),
      turn=fields.whole,
      handed=fields.optional(is_handed),
      totals=fields.record(**dict.fromkeys(Totals._fields, fields.number)),
    )
    sealed = tensors.pop("sealed").tobytes()
    if sealed:
      seal.check_sealed(frames.decode(sealed))
    part = frames.tree_of(frame._replace(tensors=tensors), STATE, start)
  except (FrameError, KeyError) as error:
    raise _damaged(path, error) from error
  handed = Handed(**head["handed"]) if head["handed"] else None
  part = jax.tree.map(jnp.asarray, part)
  return Committed(head["turn"], part, handed, sealed, Totals(**head["totals"]))


def _damaged(path: Path, error: Exception) -> UserError:
  return UserError(
    f"{path} is damaged or of another model ({error}); restore it or pass another --workdir."
  )
