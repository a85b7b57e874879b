"""A run of any method on a small network, and the bytes that its clients exchange."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.settings import configure

from fedjax_norm.algorithms import residual_updates
from fedjax_norm.algorithms.contract import Averaging, Method
from fedjax_norm.algorithms.round_algorithm import Algorithm, RoundContext
from fedjax_norm.data.cohorts import cohorts
from fedjax_norm.local_training import Metrics
from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.training.build_program import make_program
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.loop import train
from fedjax_norm.training.outcome import Outcome
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.task.task import Task

# Options with which a method uses its features within four rounds.
OPTIONS = {
  "fedavg": {"local_steps": 2, "client_momentum": "local", "server_optimizer": "momentum"},
  "scaffold": {"local_steps": 2},
  "periodic": {"local_steps": 2},
  "gaia": {"batch_stats": "mean"},
  "dgc": {"sparsity": 0.9},
  "splitfed_v1": {"local_steps": 2, "client_momentum": "local"},
  "splitfed_v2": {"local_steps": 2, "client_momentum": "local"},
}
# The phase changes after the first of two evaluations.
RUN = {"rounds": 4, "eval_every": 2, "freeze_round": 2, "batch_size": 4, "lr": 0.1}
OWNERS = np.repeat(np.arange(5), (20, 7, 13, 9, 11))
CLIENTS, COHORT = 5, 3

# Bytes of the network below: parameters, statistics, and those of its first stage, before the cut.
PARAMS, STATS = 4 * (4 * 2 + 4 + 2 * 4 + 4), 4 * 4
FIRST_PARAMS, ACTIVATION, LABEL = 4 * (4 * 2 + 4), 4 * (3 * 3 * 2), 4


class Net(Staged):
  """A convolution with the norm, and a dense layer: two stages for split learning."""

  norm: NormSpec
  num_classes: int = 4

  def stages(self) -> Sequence[Stage]:
    def conv(x, mode: Mode):
      x = Conv(2, (2, 2), self.norm, strides=(2, 2), name="Conv_0")(x, mode)
      return jax.nn.relu(Norm(self.norm, name="Norm_0")(x, mode))

    def head(x, mode: Mode):
      return Dense(self.num_classes, self.norm, name="Dense_0")(x.mean((1, 2)), mode)

    return ("conv", conv), ("head", head)


class Exchange(NamedTuple):
  """Bytes that a client of an averaging method exchanges, counted when its function is traced.

  Attributes:
    updates_stats: whether training updates running statistics.
    down: bytes that the client receives.
    up: bytes that the client uploads.
    stats: bytes of its new running statistics.
  """

  updates_stats: bool
  down: int
  up: int
  stats: int


def num_bytes(tree: Any, without: str = "") -> int:
  """Returns the bytes of arrays or tracers, without leaves whose path contains a text."""
  return sum(
    np.zeros(leaf.shape, leaf.dtype).nbytes
    for path, leaf in jax.tree.leaves_with_path(tree)
    if not without or without not in jax.tree_util.keystr(path)
  )


def recorded(method: Method, exchanges: list[Exchange], sent="", received="") -> Method:
  """Returns a method that records what its clients exchange, without the leaves of some paths."""

  def build(config, setup):
    built = method.build(config, setup)
    if not isinstance(built, Averaging):
      return built

    def client(server, client_state, examples, context):
      update = built.client(server, client_state, examples, context)
      stats = num_bytes(update.trained.variables.get("batch_stats", {}))
      updates_stats = setup.model.norm.updates_running_statistics
      exchanged = num_bytes(server, received), num_bytes(update.upload, sent), stats
      exchanges.append(Exchange(updates_stats, *exchanged))
      return update

    return built._replace(client=client)

  return dataclasses.replace(method, build=build)


def make_config(method: Method, **options):
  return configure(config_of(method), **{**RUN, **OPTIONS.get(method.name, {}), **options})


class Whole(NamedTuple):
  """A complete run.

  Attributes:
    method: row of the registry.
    task: federated data and model.
    program: compiled program, which all tests share.
    config: options of the run.
    outcome: result of the run.
    states: (server state, states of all clients) at each of the two evaluations.
    cohorts: [rounds, m] clients of each round.
    exchanges: bytes that a client exchanges; empty for methods that do not average.
  """

  method: Method
  task: Task
  program: Program
  config: Any
  outcome: Outcome
  states: list[tuple[Any, Any]]
  cohorts: np.ndarray
  exchanges: set[Exchange]

  @property
  def algorithm(self) -> Algorithm:
    return self.program.phases["explore"].algorithm

  def start(self):
    """Returns (server state, states of all clients) before the first round."""
    server = self.algorithm.init(jax.tree.map(jnp.asarray, initial_variables(self.task, 0)))
    one = self.algorithm.init_client(server)
    return server, jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], CLIENTS, 0), one)

  def context(self, round_: int) -> RoundContext:
    theta = self.program.theta_schedule.values[round_] if self.program.theta_schedule else 0.0
    rate = np.float32(self.program.rates[round_])
    data = jax.tree.map(jnp.asarray, self.task.data)
    return RoundContext(data, jnp.int32(round_), rate, jax.random.key(0), np.float32(theta))


def run_whole(method: Method, task: Task) -> Whole:
  """Runs a method with the mapping of ``auto``, and with cohorts if the method allows them."""
  states, exchanges = [], []
  method = recorded(method, exchanges)
  config = make_config(method, cohort=None if method.all_clients else COHORT)
  program = make_program(method, task, config)

  def evaluate(algorithm, server, store, data, key):
    states.append(jax.tree.map(np.array, (server, store.arrays)))
    return program.evaluate(algorithm, server, store, data, key)

  exchanges.clear()  # those of building the ledger
  variables = initial_variables(task, 0)
  outcome = train(program._replace(evaluate=evaluate), config, task.data, variables)
  drawn = cohorts(jax.random.key(0), 0, RUN["rounds"], CLIENTS, config.cohort_of(CLIENTS))
  return Whole(method, task, program, config, outcome, states, np.asarray(drawn), {*exchanges})


class Replay(NamedTuple):
  """The first two rounds of a run, repeated under vmap.

  Attributes:
    server: server state after the rounds.
    clients: states of all clients after the rounds.
    metrics: sum over the rounds.
    updates: for methods with sparse updates, the updates that clients sent in each round.
  """

  server: Any
  clients: Any
  metrics: Metrics
  updates: list[list[Any]]


def run_again(whole: Whole) -> Replay:
  """Repeats the first two rounds of a run under vmap, with a row of -1 in each cohort.

  Raises:
    UserError: the method does not support the mapping.
  """
  updates, sent = [], []

  def divide(values, chosen, original=residual_updates.divide):
    update, rest = original(values, chosen)
    jax.debug.callback(lambda u: updates.append(jax.tree.map(np.array, u)), update)
    return update, rest

  config = dataclasses.replace(whole.config, backend="vmap")
  program = make_program(whole.method, whole.task, config)
  (server, clients), total = whole.start(), Metrics.zeros()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(residual_updates, "divide", divide)
    round_ = jax.jit(program.phases["explore"].algorithm.round)
    for index, cohort in enumerate(whole.cohorts[:2]):
      rows = np.insert(cohort, 1 + index, -1)
      states = jax.tree.map(lambda a, rows=rows: a[rows], clients)
      server, states, metrics = round_(server, states, rows, whole.context(index))
      total = optax.tree.add(total, metrics)
      jax.effects_barrier()
      sent.append([one for one in updates if any(leaf.any() for leaf in jax.tree.leaves(one))])
      updates.clear()
      states = jax.tree.map(lambda a, gap=1 + index: np.delete(a, gap, 0), states)
      for old, new in zip(jax.tree.leaves(clients), jax.tree.leaves(states), strict=True):
        old[cohort] = new
  return Replay(server, clients, total, sent)
