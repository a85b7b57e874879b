"""Reads and writes the server's files: the parties that joined, and the state after a turn."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_norm.errors import UserError
from fedjax_norm.split.parties import Part
from fedjax_norm.wire.protocol import encryption, fields, frames, private_files
from fedjax_norm.wire.protocol.frames import STATE, Frame, FrameError

_MEMBERS, _STATE = "members.json", "state.frame"
_RUN = re.compile("[0-9a-f]{32}")


class Member(NamedTuple):
  """A party that joined the run.

  Attributes:
    client: index of the client, or None for a third party, which only predicts.
    examples: number of training examples; 0 for a third party.
    address: HOST:PORT at which other clients fetch hand-overs (--hand_over=peer), else ''.
    announcement: the party's public key, signed, as JSON.
    public: the public key, hexadecimal.
  """

  client: int | None
  examples: int
  address: str
  announcement: str
  public: str


class Membership(NamedTuple):
  """The parties of a run.

  Attributes:
    run: name of the run.
    members: the parties that joined, by the name on the certificate.
    final: names of the parties that have the last hand-over of the run.
  """

  run: str
  members: Mapping[str, Member]
  final: frozenset[str]


class Totals(NamedTuple):
  """Counts of a run for the metrics and the summary.

  Attributes:
    steps: number of local steps.
    turns: number of completed turns.
    passed: number of turns that passed to another client.
    up: bytes to the server, of the steps and hand-overs of completed turns.
    down: bytes from the server, of the steps and hand-overs of completed turns.
    loss: sum of the losses of the current round's examples; 0 in the U-shape.
    correct: number of the current round's examples that were classified correctly.
    examples: number of the current round's examples.
    seconds: time between the offer and the end of each turn, summed over all turns.
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

  def add_bytes(self, up: int, down: int) -> "Totals":
    """Returns the totals after ``up`` bytes to the server and ``down`` bytes from it."""
    return self._replace(up=self.up + up, down=self.down + down)


class HandOver(NamedTuple):
  """Description of a hand-over.

  Attributes:
    step: number of the first step after the training of the weights.
    sender: name of the client that made the hand-over.
    address: HOST:PORT at which the sender serves the hand-over, or '' if the server stores it.
  """

  step: int
  sender: str
  address: str


is_hand_over = fields.record(step=fields.whole, sender=fields.name, address=fields.address)
"""Checks that a JSON value has the fields of a :class:`HandOver`."""


class Committed(NamedTuple):
  """The state after a completed turn, as stored on the disk.

  Attributes:
    turn: number of the next turn.
    part: weights and optimizer state of the server's segment, which fit the hand-over.
    hand_over: the last hand-over, or None before the first.
    sealed: encrypted bytes of the last hand-over, or b'' if it stays with its sender.
    totals: counts so far.
  """

  turn: int
  part: Part
  hand_over: HandOver | None
  sealed: bytes
  totals: Totals

  def at_new_round(self) -> "Committed":
    """Returns the state with the counts of the round (loss, correct, examples) set to 0."""
    return self._replace(totals=self.totals._replace(loss=0.0, correct=0.0, examples=0))


def is_run(value: Any) -> bool:
  """Whether a value can be the name of a run: 32 hexadecimal digits."""
  return isinstance(value, str) and _RUN.fullmatch(value) is not None


def write_membership(folder: Path, membership: Membership) -> None:
  """Atomically writes the file of the parties that joined."""
  members = {name: member._asdict() for name, member in membership.members.items()}
  content = {"run": membership.run, "members": members, "final": sorted(membership.final)}
  private_files.replace(folder / _MEMBERS, (json.dumps(content, indent=2) + "\n").encode())


def read_membership(folder: Path) -> Membership | None:
  """Reads the file of the parties that joined; returns None if the folder has no such file."""
  path = folder / _MEMBERS
  if not path.exists():
    return None
  member = fields.record(
    client=fields.optional(fields.whole),
    examples=fields.whole,
    address=fields.address,
    announcement=fields.text,
    public=fields.text,
  )
  records, final = fields.mapping_of(member), fields.list_of(fields.name)
  try:
    content = frames.parse_json(path.read_bytes(), run=is_run, members=records, final=final)
  except FrameError as error:
    raise _damaged(path, error) from error
  members = {name: Member(**record) for name, record in content["members"].items()}
  return Membership(content["run"], members, frozenset(content["final"]))


def write_state(folder: Path, committed: Committed) -> None:
  """Atomically writes the state after a turn."""
  hand_over = committed.hand_over._asdict() if committed.hand_over else None
  head = {"turn": committed.turn, "handed": hand_over, "totals": committed.totals._asdict()}
  content = {
    **frames.tree_tensors(committed.part),
    "json": frames.from_bytes(json.dumps(head).encode()),
    "sealed": frames.from_bytes(committed.sealed),
  }
  private_files.replace(folder / _STATE, frames.encode(Frame(STATE, committed.turn, content)))


def read_state(folder: Path, template: Part) -> Committed | None:
  """Reads the state after the last turn; returns None if the folder has no such file.

  ``template`` gives the shapes of the server's segment. Raises ``UserError`` for a damaged file.
  """
  path = folder / _STATE
  if not path.exists():
    return None
  totals = fields.record(**dict.fromkeys(Totals._fields, fields.number))
  checks = {"turn": fields.whole, "handed": fields.optional(is_hand_over), "totals": totals}
  try:
    frame = frames.decode(path.read_bytes())
    tensors = dict(frame.tensors)
    head = frames.parse_json(tensors.pop("json").tobytes(), **checks)
    sealed = tensors.pop("sealed").tobytes()
    if sealed:
      encryption.check_sealed(frames.decode(sealed))
    part = frames.read_tree(frame._replace(tensors=tensors), STATE, template)
  except (FrameError, KeyError) as error:
    raise _damaged(path, error) from error
  hand_over = HandOver(**head["handed"]) if head["handed"] else None
  part = jax.tree.map(jnp.asarray, part)
  return Committed(head["turn"], part, hand_over, sealed, Totals(**head["totals"]))


def _damaged(path: Path, error: Exception) -> UserError:
  return UserError(
    f"{path} is damaged or belongs to another model ({error}); restore it or pass another "
    "--workdir."
  )
