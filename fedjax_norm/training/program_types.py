"""The types that describe a run to the training loop: its phases and its program."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.batch_statistics import DataPart
from fedjax_norm.algorithms.costs.clock import Clock
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.control.freeze import Freeze
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.control.theta import ThetaSchedule
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.objectives import Objective
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.training.diagnostics_recorder import Diagnose
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.skewscout_run import SkewScoutRun
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Key, PyTree, Variables


class Phase(NamedTuple):
  """The rounds of a run that share one model, one norm spec and one compiled program.

  Attributes:
    algorithm: the algorithm of this phase.
    model: the model of this phase, not bound to a named device axis.
    config: the method's options in this phase.
    rate_factor: factor on the scheduled learning rate.
    recalibrate: recomputes the batch statistics before an evaluation, (variables, parts of all
      clients' data, key) -> batch_stats; None if the options do not ask for it.
    recalibrate_cost: a client's traffic in a recalibration; costs per step are per example here.
    recalibrate_steps: [K] duration of a recalibration for each client, in training steps.
  """

  algorithm: Algorithm
  model: nn.Module
  config: Any
  rate_factor: float = 1.0
  recalibrate: Callable[[Variables, Iterable[DataPart], Key], PyTree] | None = None
  recalibrate_cost: Cost = Cost(0, 0)
  recalibrate_steps: np.ndarray = np.zeros(0)


class Evaluation(NamedTuple):
  """The result of an evaluation.

  Attributes:
    columns: columns of a row of ``metrics.csv``.
    client_accuracies: accuracy of each evaluated client by its id; empty without such clients.
    details: content of ``evaluation.json`` except for the round; empty for tasks without classes.
  """

  columns: dict[str, float]
  client_accuracies: dict[int, float]
  details: dict[str, Any]


class Evaluate(Protocol):
  """Tests the models of a run with compiled functions, which tasks with the same model share."""

  def __call__(
    self, algorithm: Algorithm, server: PyTree, store: ClientStore, data: FederatedData, key: Key
  ) -> Evaluation:
    """Tests the models of ``server`` and ``store``.

    Args:
      algorithm: the algorithm of the phase.
      server: the server state.
      store: the states of all clients.
      data: the federation on the host.
      key: key of the run.
    """
    ...

  def for_task(self, task: Task) -> "Evaluate":
    """Returns the function that tests on the data of ``task`` and compiles nothing again.

    Model, preprocessing, classes and number of clients must be those of this function's task, as
    they are in tasks of the same run with other seeds. Only data may differ: the test, validation
    and unseen clients' examples, and the scales of regression targets.
    """
    ...


class Program(NamedTuple):
  """Everything that the training loop needs to run a method on a task with any seed.

  Attributes:
    phases: the phases by name, in the order of the run.
    mapping: the mapping of clients to devices.
    evaluate: tests the models at the end of each interval.
    freeze: FixBN's freeze policy, which changes the phase; None without a freeze.
    plateau: policy that lowers the learning rate on a plateau of the loss; None without one.
    clock: simulated clock of the network; None without simulated time.
    rates: [rounds] scheduled learning rates.
    data_on: ``'device'`` if all data stays there, ``'host'`` if it is sent before the rounds.
    intervals: by phase name, the compiled function that runs rounds (``rounds.compile_interval``).
    diagnose: measures how clients differ, at evaluations; None without diagnostics.
    theta_schedule: sets the communication threshold of each round; None for methods without one.
    skewscout: SkewScout, which tests models on other clients; None without SkewScout.
    objective: training objective: a key of ``objectives.OBJECTIVES`` or a user-defined objective.
    messages: log of the messages of split learning with --step_by_step; None for all other runs.
    unequal_steps: [K] local steps of each client in a round; None if all take equally many.
  """

  phases: dict[str, Phase]
  mapping: ClientMapping
  evaluate: Evaluate
  freeze: Freeze | None
  plateau: Plateau | None
  clock: Clock | None
  rates: np.ndarray
  data_on: str
  intervals: dict[str, Callable[..., Any]]
  diagnose: Diagnose | None = None
  theta_schedule: ThetaSchedule | None = None
  skewscout: SkewScoutRun | None = None
  objective: str | Objective = "classification"
  messages: MessageLog | None = None
  unequal_steps: np.ndarray | None = None
