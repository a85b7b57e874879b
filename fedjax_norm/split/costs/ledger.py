"""What hand-overs send, and what a run of split learning tells of bytes and FLOPs."""

import numpy as np

from fedjax_norm.algorithms.ledger import Counter
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.costs.counters import Tally
from fedjax_norm.split.costs.flops import Effort
from fedjax_norm.split.state import ClientState, SplitState
from fedjax_norm.typing import Array

SEED_BYTES = 8
"""Of the seed that gives the initial weights."""


def count_hand_over(
  config: SplitConfig, size: int, state: SplitState, client: ClientState, identity: Array
) -> tuple[Tally, Tally]:
  """What brings Alice's parts to a client for its turn, and takes them from it.

  Args:
    config: the options.
    size: bytes of the parts that travel.
    state: what all hold before the turn.
    client: what the client keeps.
    identity: its id.

  Returns:
    (on the client's own account, on that of all clients).
  """
  nothing = Counter.of(0)
  if config.variant == "split":
    handed = (state.last >= 0) & (state.last != identity)
    got = Counter.of(size).times(handed)
    if config.handed_over == "updates":  # the seed, to everyone but the first
      got = got.add(Counter.of(SEED_BYTES).times((client.turns == 0) & (state.last >= 0)))
    # Once to put or to ask for it, and once to get it.
    trips = Counter.of(2).times(handed)
    # Since her last turn somebody else has had hers.
    gave = Counter.of(size).times((client.turns > 0) & (state.last != identity))
  else:
    got = gave = Counter.of(size)
    trips = nothing
  own = Tally(gave, got, nothing, trips, nothing, nothing)
  return own, Tally(got, got, nothing, trips, nothing, nothing)


def state_columns(config: SplitConfig, effort: Effort, state: SplitState) -> dict[str, float]:
  """The columns that a row of metrics has of split learning.

  Args:
    config: the options.
    effort: of the parties, FLOPs an example.
    state: what all hold.
  """
  every, crossed = state.tally.examples.value(), state.tally.exchanged.value()
  columns = {
    "client_flops": effort.client * every + effort.client_crossing * crossed,
    "server_flops": effort.server * crossed,
  }
  if config.relays:
    columns["relay_flops"] = effort.relays * crossed
    columns["relay_bytes"] = state.tally.relayed.value()
  if config.autoencoder is not None:
    columns["reconstruction"] = float(state.reconstruction)
  return columns


def client_rows(
  config: SplitConfig, size: int, effort: Effort, clients: ClientState
) -> list[dict[str, float]]:
  """The rows of ``clients.csv``.

  Args:
    config: the options.
    size: bytes of the parts that travel.
    effort: of the parties, FLOPs an example.
    clients: all clients' states [K, ...], host.
  """
  tally, began = clients.tally, clients.turns > 0
  every, crossed = tally.examples.values(), tally.exchanged.values()
  up = tally.up.values()
  if config.variant == "split":
    # The last one still has hers; the first one has told the others the seed.
    up = up + size * (began & (clients.latest != clients.latest.max()))
    if config.handed_over == "updates":
      up = up + SEED_BYTES * (began.sum() - 1) * (clients.first == 0)
  columns = {
    "client": np.arange(len(began)),
    "turns": clients.turns,
    "examples": every,
    "bytes_up": up,
    "bytes_down": tally.down.values(),
    "flops": effort.client * every + effort.client_crossing * crossed,
  }
  cells = zip(*(column.tolist() for column in columns.values()), strict=True)
  return [dict(zip(columns, row, strict=True)) for row in cells]
