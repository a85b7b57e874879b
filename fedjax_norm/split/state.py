"""The states of server and clients in split learning, and what clients hand over of them."""

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
    opt_states: optimizer state of each segment and of the decoder; () for a segment that SplitFed
      averages, except under ``client_momentum='global'``.
    decoder: variables of the clients' decoder, or ().
    starter: id of the client that trained first, int32; -1 before it, and in ``splitfed_v1``.
    last: id of the client that trained last, int32; -1 before it, and in ``splitfed_v1``.
    turns: number of times that a client has trained, int32; 0 in ``splitfed_v1``.
    tally: counts of bytes, round trips and examples since the start of the run.
    reconstruction: autoencoder loss in the last step of each client, averaged over the last round.
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
  """The state that stays on a client between its turns, the rounds in which it trains.

  Attributes:
    batch_stats: running statistics of the client's segments under ``batch_stats='local'``, else ().
    opt_states: optimizer states of the segments that SplitFed averages under
      ``client_momentum='local'``, else ().
    turns: number of turns of this client, int32.
    first: index of this client's first turn among the turns of all clients, int32; -1 before it.
    latest: index of this client's latest turn among the turns of all clients, int32; -1 before it.
    tally: counts of this client. Weights that it hands over are counted at its next turn.
  """

  batch_stats: tuple[PyTree, ...]
  opt_states: tuple[PyTree, ...]
  turns: Array
  first: Array
  latest: Array
  tally: Tally


def params_of(part: Part) -> PyTree:
  """Returns the parameters of a segment; {} for stages without parameters."""
  return part.variables.get("params", {})


def stats_of(part: Part) -> PyTree:
  """Returns the running statistics of a part of the model; {} if its norms have none."""
  return part.variables.get("batch_stats", {})


def with_stats(part: Part, stats: PyTree) -> Part:
  """Returns the part with its running statistics replaced; unchanged if ``stats`` is empty."""
  return part._replace(variables={**part.variables, "batch_stats": stats}) if stats else part


def hand_over_state(part: Part, config: SplitConfig) -> dict[str, PyTree]:
  """Returns what a client sends of one segment to the next client, or to SplitFed's averager.

  It has the parameters; the running statistics unless they are local or recomputed; and the
  optimizer state, except in SplitFed under ``client_momentum`` ``local`` or ``reset``.
  """
  state = {"params": params_of(part)}
  if config.batch_stats in (None, "mean", "moments"):
    state["batch_stats"] = stats_of(part)
  if not config.averaged(ALICE) or config.client_momentum == "global":
    state["opt_state"] = part.opt_state
  return state
