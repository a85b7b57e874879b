"""The server's state of a run, and the rules about which client has the turn.

The state is immutable: a method returns the state after an event. The caller passes the time.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_norm.split.parties import Part
from fedjax_norm.wire.protocol import encryption, frames
from fedjax_norm.wire.protocol.network import Network, StepPosition
from fedjax_norm.wire.protocol.step_ids import MAX_STEPS, step_id
from fedjax_norm.wire.server.server_step import PendingStep
from fedjax_norm.wire.server.store import Committed, Membership, Totals


class RunSettings(NamedTuple):
  """Constants of a run.

  Attributes:
    network: the cut network.
    authority: the authority's certificate, PEM.
    clients: names on the clients' certificates, in the order of their turns.
    client_settings: options that the server sends to clients, as JSON types by name.
    rates: learning rate of each round, [rounds] float32.
    key: random key of the server's initial weights and dropout.
    patience: seconds without a request after which a client's turn passes on (--patience).
    peer: whether hand-overs stay with the clients (--hand_over=peer).
    limit: largest number of bytes in a message.
  """

  network: Network
  authority: bytes
  clients: tuple[str, ...]
  client_settings: dict[str, Any]
  rates: np.ndarray
  key: jax.Array
  patience: float
  peer: bool
  limit: int


class ActiveTurn(NamedTuple):
  """A turn in progress.

  Attributes:
    part: state of the server's segment after the steps so far.
    step: number of the next step.
    pending: set between the forward and the backward request of a step (U-shape), else None.
    last_answer: (method, step, SHA-256 of the request, answer) of the last request, or None.
    totals: counts of the run, with the steps of the turn so far.
    fetched: bytes of (the client's request for the last hand-over, the answer); zeros before it.
  """

  part: Part
  step: int
  pending: PendingStep | None
  last_answer: tuple[str, int, bytes, bytes] | None
  totals: Totals
  fetched: tuple[int, int] = (0, 0)


class RunState(NamedTuple):
  """A run at one moment.

  All times are in seconds. A party is present if it sent a request within the patience.

  Attributes:
    settings: constants of the run.
    membership: parties that joined; also on the disk.
    committed: state after the last completed turn; also on the disk.
    readers: names of the parties that can decrypt the last hand-over.
    started: time at which the server process started.
    last_heard: time of each party's last request.
    keys_sent: for each party, the names of the parties that it received public keys of.
    sender_keys: ``keys_sent`` of the last hand-over's sender when it sent the hand-over.
    first_request: time of the first request for a turn, or None.
    offered_at: time from which the current client could take its turn, or None.
    active: the current turn, or None before it begins.
    computing: whether the server computes; no turn passes on in this time.
  """

  settings: RunSettings
  membership: Membership
  committed: Committed
  readers: frozenset[str]
  started: float
  last_heard: Mapping[str, float]
  keys_sent: Mapping[str, frozenset[str]]
  sender_keys: frozenset[str] = frozenset()
  first_request: float | None = None
  offered_at: float | None = None
  active: ActiveTurn | None = None
  computing: bool = False

  @property
  def num_clients(self) -> int:
    """Number of clients."""
    return len(self.settings.clients)

  @property
  def num_turns(self) -> int:
    """Number of turns in the run."""
    return len(self.settings.rates) * self.num_clients

  @property
  def done(self) -> bool:
    """Whether all turns are over."""
    return self.committed.turn >= self.num_turns

  @property
  def round(self) -> int:
    """Number of the current turn's round, from 0."""
    return self.committed.turn // self.num_clients

  @property
  def current_client(self) -> str:
    """Name of the client that has the current turn."""
    return self.settings.clients[self.committed.turn % self.num_clients]

  @property
  def steps_done(self) -> bool:
    """Whether all steps of the current turn are done."""
    if self.active is None:
      return False
    steps = self.position(self.active.step).steps
    return self.active.pending is None and self.active.step == step_id(self.committed.turn, steps)

  @property
  def can_start_turn(self) -> bool:
    """Whether the current turn is offered and the client can decrypt the last hand-over."""
    return self.offered_at is not None and self.can_read(self.current_client)

  def _split_step(self, step: int) -> tuple[int, int, int]:
    """Returns (round, client, local step)."""
    turn, local_step = divmod(step, MAX_STEPS)
    return *divmod(turn, self.num_clients), local_step

  def position(self, step: int) -> StepPosition:
    """Returns the place in the run of the step with this number."""
    round, client, local_step = self._split_step(step)
    size = self.membership.members[self.settings.clients[client]].examples
    steps = int(self.settings.network.rules.steps(np.int32(size)))
    return StepPosition(round, client, steps, local_step)

  def describe_step(self, step: int) -> str:
    """Returns a text for errors, with the local step, client and round of a step number."""
    round, client, local_step = self._split_step(step)
    return f"step {local_step} of client {client} in round {round}"

  def is_client(self, name: str) -> bool:
    """Whether a party has joined as a client."""
    member = self.membership.members.get(name)
    return member is not None and member.client is not None

  def can_read(self, name: str) -> bool:
    """Whether a party can decrypt the last hand-over, or nothing was handed over yet."""
    return self.settings.peer or self.committed.hand_over is None or name in self.readers

  def is_present(self, name: str, now: float, default: float = -np.inf) -> bool:
    """Whether a party's last request (at ``default`` if it sent none) is within the patience."""
    return now - self.last_heard.get(name, default) <= self.settings.patience

  def waiting(self, now: float) -> frozenset[str]:
    """Returns the present parties that lack the last hand-over of the run.

    For the patience after a start of the server, all parties count as present.
    """
    members = self.membership.members
    present = (name for name in members if self.is_present(name, now, self.started))
    return frozenset(present) - self.membership.final

  def missing_receivers(self, name: str) -> list[str]:
    """If ``name`` sent the last hand-over, returns the parties that joined too late to receive it.

    Parties with public keys that the sender got but did not trust are not included.
    """
    hand_over = self.committed.hand_over
    if self.settings.peer or not hand_over or hand_over.sender != name:
      return []
    return sorted(set(self.membership.members) - self.readers - self.sender_keys)

  def heard_from(self, name: str, now: float) -> "RunState":
    """Returns the state in which a party's last request came at the time ``now``."""
    return self._replace(last_heard={**self.last_heard, name: now})

  def commit(self, committed: Committed) -> "RunState":
    """Returns the state after another completed turn, with the readers of its hand-over."""
    return self._replace(committed=committed, readers=readers_of(committed))

  def begin_turn(self) -> "RunState":
    """Returns the state in which the current turn begins, or begins again."""
    committed = self.committed
    start = step_id(committed.turn, 0)
    return self._replace(active=ActiveTurn(committed.part, start, None, None, committed.totals))

  def advance(self, committed: Committed, now: float) -> "RunState":
    """Returns the state in which the turn of ``committed`` is offered; adds up the waiting time."""
    seconds = 0.0 if self.offered_at is None else now - self.offered_at
    totals = committed.totals._replace(seconds=committed.totals.seconds + seconds)
    after = self.commit(committed._replace(totals=totals))
    return after._replace(active=None, offered_at=now)

  def offer_first_turn(self, now: float) -> "RunState":
    """Offers the first turn when all clients have sent a request or the patience is over."""
    if self.offered_at is not None:
      return self
    first = now if self.first_request is None else self.first_request
    complete = set(self.settings.clients) <= set(self.last_heard)
    offered = complete or now - first > self.settings.patience
    return self._replace(first_request=first, offered_at=now if offered else None)

  def pass_on(self, now: float) -> "RunState":
    """Passes the turn of an absent client to the next present client that can take it, if any."""
    if self.done or self.computing or self.offered_at is None:
      return self
    last = max(self.offered_at, self.last_heard.get(self.current_client, -np.inf))
    if now - last <= self.settings.patience:
      return self
    turn, totals = self.committed.turn, self.committed.totals
    for later in range(turn + 1, turn + self.num_clients):
      name = self.settings.clients[later % self.num_clients]
      if self.is_client(name) and self.is_present(name, now) and self.can_read(name):
        break
    else:
      return self
    totals = totals._replace(passed=totals.passed + min(later, self.num_turns) - turn)
    return self.advance(self.committed._replace(turn=later, totals=totals), now)


def initial_state(
  settings: RunSettings, membership: Membership, committed: Committed, now: float
) -> RunState:
  """Returns the state of a run that starts, or that resumes from what is on the disk."""
  readers = readers_of(committed)
  return RunState(settings, membership, committed, readers, now, last_heard={}, keys_sent={})


def readers_of(committed: Committed) -> frozenset[str]:
  """Returns the names of the parties that can decrypt the last hand-over."""
  sealed = committed.sealed
  return encryption.receivers_of(frames.decode(sealed)) if sealed else frozenset()
