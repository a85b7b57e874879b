"""What a run compiles once: its phases, and an interval of rounds of each."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.batch_statistics import Part
from fedjax_norm.algorithms.clock import Clock
from fedjax_norm.algorithms.contract import Algorithm
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
    recalibrate: (variables, parts of all clients' data, key) -> batch_stats, run before evaluations
      when the statistics are recalibrated; None otherwise.
    recalibrate_cost: what a client sends and receives then; a step of it is an example.
    recalibrate_steps: [K] the time that it takes each client, in training steps.
  """

  algorithm: Algorithm
  model: nn.Module
  config: Any
  rate_factor: float = 1.0
  recalibrate: Callable[[Variables, Iterable[Part], Key], PyTree] | None = None
  recalibrate_cost: Cost = Cost(0, 0)
  recalibrate_steps: np.ndarray = np.zeros(0)


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
