"""The costs of split learning: FLOPs of each party, and bytes of handed-over weights."""

from typing import NamedTuple

import jax
import numpy as np

from fedjax_norm.algorithms.costs.ledger import Counter
from fedjax_norm.models.flops import program_flops, step_flops
from fedjax_norm.models.stages import Staged
from fedjax_norm.split.autoencoder import Autoencoder
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.plan import ALICE, BOB, Plan, segment_shapes
from fedjax_norm.split.state import ClientState, ServerState
from fedjax_norm.split.tally import Tally
from fedjax_norm.typing import Array

SEED_BYTES = 8
"""Bytes of the message with the seed of the initial weights."""


class PartyFlops(NamedTuple):
  """Training FLOPs per example. Only the activations of labelled examples cross the cut.

  Attributes:
    client: FLOPs of the client's head and decoder for any example.
    client_crossing: FLOPs of the client's tail for an example that crosses the cut.
    server: FLOPs of the server for an example that crosses the cut.
    relays: FLOPs of all relays together for an example that crosses the cut.
  """

  client: float
  client_crossing: float
  server: float
  relays: float


def party_flops(
  model: Staged,
  plan: Plan,
  image: jax.ShapeDtypeStruct,
  batch_size: int,
  autoencoder: Autoencoder | None = None,
) -> PartyFlops:
  """Returns the FLOPs of each party's training step divided by the number of examples.

  Args:
    model: the whole model.
    plan: the segments of the model and the party of each segment.
    image: (H, W, C) and the dtype that the model computes in.
    batch_size: examples per step.
    autoencoder: the clients' autoencoder, or None.
  """
  total = {"head": 0.0, "tail": 0.0, BOB: 0.0, "relays": 0.0}
  for index, segment in enumerate(plan.segments):
    party = {ALICE: "tail" if index else "head", BOB: BOB}.get(segment.owner, "relays")
    flops = step_flops(
      model, image.shape, segment.begin, segment.end, batch_size, input_gradient=index > 0
    )
    total[party] += flops.training / batch_size
  if autoencoder:
    x = segment_shapes(model, plan, image)[1][0]
    part = jax.eval_shape(lambda: autoencoder.make_part(autoencoder.init(jax.random.key(0))))
    shapes = [jax.ShapeDtypeStruct((batch_size, *a.shape), a.dtype) for a in (x, image)]
    mask, rate = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((batch_size,), ()))
    total["head"] += program_flops(autoencoder.decode, part, *shapes, mask, rate) / batch_size
  return PartyFlops(*total.values())


def count_hand_over(
  config: SplitConfig, size: int, state: ServerState, client: ClientState, client_id: Array
) -> tuple[Tally, Tally]:
  """Counts the messages that bring weights to a client before its turn and away after its turn.

  Args:
    config: the options of split learning.
    size: bytes of the weights in one transfer.
    state: the server state before the turn.
    client: the client state before the turn.
    client_id: id of the client.

  Returns:
    (addition to the client's tally, addition to the tally of all clients).
  """
  zero = Counter.of(0)
  if config.variant == "split":
    needed = (state.last >= 0) & (state.last != client_id)
    received = Counter.of(size).times(needed)
    if config.handed_over == "updates":  # the seed goes once to every client but the first
      received = received.add(Counter.of(SEED_BYTES).times((client.turns == 0) & (state.last >= 0)))
    # One round trip to send the weights to the server or to ask a peer, and one to get them.
    trips = Counter.of(2).times(needed)
    # Another client has fetched this client's weights since its previous turn.
    sent = Counter.of(size).times((client.turns > 0) & (state.last != client_id))
  else:
    received = sent = Counter.of(size)
    trips = zero
  of_client = Tally(sent, received, zero, trips, zero, zero)
  return of_client, Tally(received, received, zero, trips, zero, zero)


def state_columns(config: SplitConfig, flops: PartyFlops, state: ServerState) -> dict[str, float]:
  """Returns the FLOPs, relayed bytes and autoencoder loss so far, for a row of ``metrics.csv``."""
  examples, exchanged = state.tally.examples.value(), state.tally.exchanged.value()
  columns = {
    "client_flops": flops.client * examples + flops.client_crossing * exchanged,
    "server_flops": flops.server * exchanged,
  }
  if config.relays:
    columns["relay_flops"] = flops.relays * exchanged
    columns["relay_bytes"] = state.tally.relayed.value()
  if config.autoencoder is not None:
    columns["reconstruction"] = float(state.reconstruction)
  return columns


def client_rows(
  config: SplitConfig, size: int, flops: PartyFlops, clients: ClientState
) -> list[dict[str, float]]:
  """Returns the rows of ``clients.csv``, one per client.

  Args:
    config: the options of split learning.
    size: bytes of the weights in one transfer.
    flops: FLOPs of the parties per example.
    clients: states of all K clients, numpy arrays [K, ...].
  """
  tally, started = clients.tally, clients.turns > 0
  examples, exchanged, up = (c.values() for c in (tally.examples, tally.exchanged, tally.up))
  if config.variant == "split":
    # Each client but the last has sent its weights on; the first has sent the seed to the others.
    up = up + size * (started & (clients.latest != clients.latest.max()))
    if config.handed_over == "updates":
      up = up + SEED_BYTES * (started.sum() - 1) * (clients.first == 0)
  columns = {
    "client": np.arange(len(started)),
    "turns": clients.turns,
    "examples": examples,
    "bytes_up": up,
    "bytes_down": tally.down.values(),
    "flops": flops.client * examples + flops.client_crossing * exchanged,
  }
  cells = zip(*(column.tolist() for column in columns.values()), strict=True)
  return [dict(zip(columns, row, strict=True)) for row in cells]
