"""What a run compiles once: its phases, and an interval of rounds of each."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from fedjax_norm import trees
from fedjax_norm.algorithms.batch_statistics import Part
from fedjax_norm.algorithms.clock import Clock
from fedjax_norm.algorithms.contract import Algorithm, RoundContext
from fedjax_norm.algorithms.ledger import Cost
from fedjax_norm.control.freeze import Freeze
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.control.theta import Dial
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.nodes import Nodes
from fedjax_norm.objectives import Objective
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.training.diagnostics_recorder import Diagnose
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.skewscout import Scouting
from fedjax_norm.typing import Key, PyTree, Variables


class Phase(NamedTuple):
  """A stretch of training with one static spec: one compiled program.

  Attributes:
    algorithm: the algorithm as it is in this phase.
    model: the model, its norm as it is in this phase and bound to no axis.
    config: the method's options as they are in this phase.
    rate_factor: multiplies the schedule's learning rate.
    refresh: (variables, all clients' data in parts, key) -> batch_stats, run before an evaluation
      when the statistics are recalibrated; None otherwise.
    refresh_cost: what a client sends and receives then; a step of it is an example.
    refresh_steps: [K] the time that it takes each client, in training steps.
  """

  algorithm: Algorithm
  model: nn.Module
  config: Any
  rate_factor: float = 1.0
  refresh: Callable[[Variables, Iterable[Part], Key], PyTree] | None = None
  refresh_cost: Cost = Cost(0, 0)
  refresh_steps: np.ndarray = np.zeros(0)


Evaluate = Callable[
  [Algorithm, PyTree, ClientStore, FederatedData, Key], tuple[dict[str, float], dict[int, float]]
]


class Program(NamedTuple):
  """What is compiled once and then run with any seed.

  Attributes:
    phases: by name.
    nodes: the mapping.
    evaluate: (algorithm, the server's state, the clients' store, the federation on the host, the
      run's key) -> (a row's test columns, the accuracies of the clients that were evaluated by id).
    freeze: when the phase changes.
    plateau: when the rate is lowered.
    clock: what a round would take; None tells no simulated time.
    rates: [rounds] the schedule's learning rates.
    data_on: ``'device'`` if all the data stays there, ``'host'`` if it comes in windows.
    intervals: the compiled interval of each phase, filled by ``programs.make_program``.
    diagnose: measures how clients differ at evaluations; None does not.
    dial: what sets theta; None for algorithms without.
    scouting: SkewScout's looks; None for none.
    objective: a name of ``objectives.OBJECTIVES`` or the user's own, which training metrics are of.
    messages: the log of split learning's messages, where they are objects; else None.
  """

  phases: dict[str, Phase]
  nodes: Nodes
  evaluate: Evaluate
  freeze: Freeze | None
  plateau: Plateau | None
  clock: Clock | None
  rates: np.ndarray
  data_on: str
  intervals: dict[str, Callable[..., Any]]
  diagnose: Diagnose | None = None
  dial: Dial | None = None
  scouting: Scouting | None = None
  objective: str | Objective = "classification"
  messages: MessageLog | None = None


def make_interval(algorithm: Algorithm, nodes: Nodes) -> Callable[..., Any]:
  """One program for any rounds of a window in a phase.

  Returns:
    (server, clients [U, ...], metrics so far, slots [R, m], rates [R], thetas [R], first, begin,
    end, data, key) -> (server, clients, metrics). Of the R rounds, the first of which is the run's
    round ``first``, those from ``begin`` to before ``end`` are run. ``slots`` says where in
    ``clients``, and in the rows of ``data``, each of a cohort is. The states are donated.
  """

  def interval(server, clients, metrics, slots, rates, thetas, first, begin, end, data, key):
    def body(index, carry):
      server, clients, total = carry
      chosen = nodes.take(clients, slots[index])
      context = RoundContext(data, first + index, rates[index], key, thetas[index])
      server, chosen, metrics = algorithm.round(server, chosen, slots[index], context)
      clients = nodes.put(clients, slots[index], chosen)
      return server, clients, trees.add(total, metrics)

    return jax.lax.fori_loop(begin, end, body, (server, clients, metrics))

  shardings = (nodes.sharding, nodes.held_sharding, nodes.sharding)
  return jax.jit(interval, donate_argnums=(0, 1), out_shardings=shardings)
