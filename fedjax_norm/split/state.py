"""The states of split learning, and the part of them that crosses in a hand-over."""

from typing import NamedTuple

from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.parties import Part
from fedjax_norm.split.plan import ALICE
from fedjax_norm.split.tally import Tally
from fedjax_norm.typing import Array, PyTree, Variables


class ServerState(NamedTuple):
  """The global state: the current model and the optimizer states of all parties.

  Attributes:
    variables: variables of the whole model.
    opt_states: optimizer state of each segment and of the decoder; () for an averaged part, except
      under ``client_momentum='global'``.
    decoder: variables of the clients' decoder, or ().
    starter: id of the client that had the first turn, int32; -1 before it and without turns.
    last: id of the client that trained last, int32; -1 likewise.
    turns: number of sequential turns so far, int32.
    tally: counts since the start of the run.
    reconstruction: mean autoencoder loss of the last minibatch of each turn in the last round.
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
  """The state that stays on a client between its turns.

  Attributes:
    batch_stats: running statistics of the client's segments under ``batch_stats='local'``, else ().
    opt_states: optimizer states of averaged parts under ``client_momentum='local'``, else ().
    turns: number of turns of this client, int32.
    first: index of its first turn among the turns of all clients, int32; -1 before it.
    latest: index of its latest turn likewise.
    tally: counts of this client. A hand-over that it sent is counted at its next turn.
  """

  batch_stats: tuple[PyTree, ...]
  opt_states: tuple[PyTree, ...]
  turns: Array
  first: Array
  latest: Array
  tally: Tally


def params_of(part: Part) -> PyTree:
  """Returns the parameters of a part; {} for stages without parameters."""
  return part.variables.get("params", {})


def stats_of(part: Part) -> PyTree:
  """Returns the running statistics of a part; {} for stages without statistics."""
  return part.variables.get("batch_stats", {})


def with_stats(part: Part, stats: PyTree) -> Part:
  """Returns the part with these running statistics; unchanged if there are none."""
  return part._replace(variables={**part.variables, "batch_stats": stats}) if stats else part


def hand_over_state(part: Part, config: SplitConfig) -> dict[str, PyTree]:
  """Returns what one client passes to the next, or to SplitFed's averager, of one of its parts.

  It has the parameters; the running statistics unless they are local or recomputed; and the
  optimizer state if it survives the turn.
  """
  state = {"params": params_of(part)}
  if config.batch_stats in (None, "mean", "moments"):
    state["batch_stats"] = stats_of(part)
  if not config.averaged(ALICE) or config.client_momentum == "global":
    state["opt_state"] = part.opt_state
  return state
