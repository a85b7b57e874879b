"""A run as Bob has it at one moment, and whose turn it is.

Pure: what happens gives another state, and who asks says what time it is. The old state goes on to
hold when the new one cannot be kept.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_norm.split.parties import Part
from fedjax_norm.wire.protocol import frames, seal
from fedjax_norm.wire.protocol.network import Moment, Network
from fedjax_norm.wire.protocol.turns import STEPS, step_id
from fedjax_norm.wire.server.body import Way
from fedjax_norm.wire.server.store import Committed, Roll, Totals


class Setting(NamedTuple):
  """What does not change in a run.

  Attributes:
    network: the model.
    authority: PEM, of all certificates.
    clients: the names on the certificates of the Alices, in the order of their turns.
    told: what clients are told of the run, JSON types.
    rates: [rounds] float32.
    key: of Bob's initial weights and his dropout.
    patience: seconds without a word after which a client's turn passes on.
    peer: whether hand-overs stay with the Alices.
    limit: the most bytes of a message.
  """

  network: Network
  authority: bytes
  clients: tuple[str, ...]
  told: dict[str, Any]
  rates: np.ndarray
  key: jax.Array
  patience: float
  peer: bool
  limit: int


class Working(NamedTuple):
  """A turn that is being had.

  Attributes:
    part: Bob's.
    step: the next step.
    way: of the U-shape, what the way forward of this step left.
    answered: (method, step, digest of the request, answer) of the last request.
    totals: with the steps so far.
    got: bytes of the request for the last hand-over and of the answer, once it was asked for.
  """

  part: Part
  step: int
  way: Way | None
  answered: tuple[str, int, bytes, bytes] | None
  totals: Totals
  got: tuple[int, int] = (0, 0)


class State(NamedTuple):
  """A run at one moment.

  Attributes:
    setting: what does not change.
    roll: who takes part; on the disk.
    kept: what the last turn left; on the disk.
    readers: of the hand-over that is kept; see :meth:`keep`.
    began: when Bob did, seconds, as all times here.
    seen: when each was last heard.
    told: whose public keys each was told.
    offered: whose the last sender was told.
    first: when somebody first asked for a turn.
    since: when the present turn was offered.
    working: the present turn, once it has begun.
    busy: whether Bob computes, so that no turn passes on.
  """

  setting: Setting
  roll: Roll
  kept: Committed
  readers: frozenset[str]
  began: float
  seen: Mapping[str, float]
  told: Mapping[str, frozenset[str]]
  offered: frozenset[str] = frozenset()
  first: float | None = None
  since: float | None = None
  working: Working | None = None
  busy: bool = False

  @property
  def number(self) -> int:
    """Of clients."""
    return len(self.setting.clients)

  @property
  def end(self) -> int:
    """The turn after the last."""
    return len(self.setting.rates) * self.number

  @property
  def done(self) -> bool:
    """Whether all turns are over."""
    return self.kept.turn >= self.end

  @property
  def round(self) -> int:
    """Of the present turn."""
    return self.kept.turn // self.number

  @property
  def current(self) -> str:
    """Whose turn it is."""
    return self.setting.clients[self.kept.turn % self.number]

  @property
  def turn_over(self) -> bool:
    """Whether all steps of the present turn are taken."""
    if self.working is None:
      return False
    steps = self.moment(self.working.step).steps
    return self.working.way is None and self.working.step == step_id(self.kept.turn, steps)

  @property
  def can_begin(self) -> bool:
    """Whether the present turn is offered, to somebody who can read the last hand-over."""
    return self.since is not None and self.can_read(self.current)

  def moment(self, step: int) -> Moment:
    """When a step is."""
    turn, index = divmod(step, STEPS)
    round, client = divmod(turn, self.number)
    size = self.roll.members[self.setting.clients[client]].examples
    return Moment(round, client, int(self.setting.network.rules.steps(np.int32(size))), index)

  def described(self, step: int) -> str:
    """A step in words."""
    turn, local_step = divmod(step, STEPS)
    round, client = divmod(turn, self.number)
    return f"step {local_step} of client {client} in round {round}"

  def takes_part(self, name: str) -> bool:
    """Whether somebody has joined as a client."""
    member = self.roll.members.get(name)
    return member is not None and member.client is not None

  def can_read(self, name: str) -> bool:
    """Whether somebody can read what was handed over last, if anything was."""
    return self.setting.peer or self.kept.handed is None or name in self.readers

  def there(self, name: str, now: float, unheard: float = -np.inf) -> bool:
    """Whether somebody was heard of lately."""
    return now - self.seen.get(name, unheard) <= self.setting.patience

  def waiting(self, now: float) -> frozenset[str]:
    """Who is there, or may come back to a Bob who has restarted, and has not got the end."""
    there = (name for name in self.roll.members if self.there(name, now, self.began))
    return frozenset(there) - self.roll.final

  def lacking(self, name: str) -> list[str]:
    """Who has come too late to be among the receivers of this sender's hand-over.

    Whom the sender was told of and left out, as it does not trust the certificate, stays out.
    """
    handed = self.kept.handed
    if self.setting.peer or not handed or handed.sender != name:
      return []
    return sorted(set(self.roll.members) - self.readers - self.offered)

  def heard(self, name: str, now: float) -> "State":
    """Somebody has said a word."""
    return self._replace(seen={**self.seen, name: now})

  def keep(self, kept: Committed) -> "State":
    """Something else is kept."""
    return self._replace(kept=kept, readers=readers_of(kept))

  def begin_turn(self) -> "State":
    """The present turn begins, from what the last one left."""
    kept = self.kept
    return self._replace(working=Working(kept.part, step_id(kept.turn, 0), None, None, kept.totals))

  def proceed(self, kept: Committed, now: float) -> "State":
    """To a later turn."""
    took = 0.0 if self.since is None else now - self.since
    totals = kept.totals._replace(seconds=kept.totals.seconds + took)
    return self.keep(kept._replace(totals=totals))._replace(working=None, since=now)

  def offer(self, now: float) -> "State":
    """Offers the first turn, when all are there or have been awaited for long enough."""
    if self.since is not None:
      return self
    first = now if self.first is None else self.first
    complete = set(self.setting.clients) <= set(self.seen)
    offered = complete or now - first > self.setting.patience
    return self._replace(first=first, since=now if offered else None)

  def pass_on(self, now: float) -> "State":
    """Passes over a client that has its turn and is gone, if another is there to have one."""
    if self.done or self.busy or self.since is None:
      return self
    last = max(self.since, self.seen.get(self.current, -np.inf))
    if now - last <= self.setting.patience:
      return self
    turn, totals = self.kept.turn, self.kept.totals
    for later in range(turn + 1, turn + self.number):
      name = self.setting.clients[later % self.number]
      if self.takes_part(name) and self.there(name, now) and self.can_read(name):
        break
    else:  # what nobody takes over is not lost
      return self
    passed = totals.passed + min(later, self.end) - turn
    return self.proceed(self.kept._replace(turn=later, totals=totals._replace(passed=passed)), now)


def begin(setting: Setting, roll: Roll, kept: Committed, now: float) -> State:
  """The state of a run that begins, or goes on from the disk."""
  return State(setting, roll, kept, readers_of(kept), now, seen={}, told={})


def readers_of(kept: Committed) -> frozenset[str]:
  """Who can read the hand-over that is kept."""
  return seal.receivers_of(frames.decode(kept.sealed)) if kept.sealed else frozenset()
