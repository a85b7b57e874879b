"""What the parties of split learning hold, and what of it goes from one to another."""

from typing import NamedTuple

from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.costs.counters import Tally
from fedjax_norm.split.parties import Part
from fedjax_norm.split.plan import ALICE
from fedjax_norm.typing import Array, PyTree, Variables


class SplitState(NamedTuple):
  """What all parties hold together.

  Attributes:
    variables: of the whole model.
    opt_states: of each segment, and of the decoder; of averaged ones under
      ``client_momentum='global'`` alone, else ().
    decoder: Alice's decoder's variables, or ().
    starter: the client that had the first turn, -1 before it and where all go at once, int32.
    last: the client that trained last, likewise.
    turns: how many there have been one after another, int32.
    tally: since the start.
    reconstruction: the autoencoder's loss on the last minibatches of the last round's turns.
  """

  variables: Variables
  opt_states: tuple[PyTree, ...]
  decoder: PyTree
  starter: Array
  last: Array
  turns: Array
  tally: Tally
  reconstruction: Array


class ClientState(NamedTuple):
  """What a client keeps between turns.

  Attributes:
    batch_stats: of its segments, under ``batch_stats='local'``, else ().
    opt_states: of averaged segments under ``client_momentum='local'``, else ().
    turns: how many it has had, int32.
    first: the number of the first of them among all turns, -1 before it, int32.
    latest: that of the last.
    tally: of its own; the hand-over that others had from it is in it from its next turn on.
  """

  batch_stats: tuple[PyTree, ...]
  opt_states: tuple[PyTree, ...]
  turns: Array
  first: Array
  latest: Array
  tally: Tally


def params_of(part: Part) -> PyTree:
  """Its parameters; {} of stages without."""
  return part.variables.get("params", {})


def stats_of(part: Part) -> PyTree:
  """Its running statistics; {} of stages without."""
  return part.variables.get("batch_stats", {})


def with_stats(part: Part, stats: PyTree) -> Part:
  """The part with other running statistics, where there are any."""
  return part._replace(variables={**part.variables, "batch_stats": stats}) if stats else part


def travelling(part: Part, config: SplitConfig) -> dict[str, PyTree]:
  """What of a part of Alice's goes from client to client, or to and from who averages.

  Its parameters; its statistics where they are neither the client's own nor made anew; its
  optimizer's state where it goes on.
  """
  kept = {"params": params_of(part)}
  if config.batch_stats in (None, "mean", "moments"):
    kept["batch_stats"] = stats_of(part)
  if not config.averaged(ALICE) or config.client_momentum == "global":
    kept["opt_state"] = part.opt_state
  return kept
