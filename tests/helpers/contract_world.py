"""A run of any method on a net of a few weights, and what its clients exchange in it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.settings import configure

from fedjax_norm.algorithms import residual
from fedjax_norm.algorithms.algorithm import Algorithm, RoundContext
from fedjax_norm.algorithms.contract import Averaging, Method
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

# What a method needs beside its defaults, so that it does in four rounds what it can.
OPTIONS = {
  "fedavg": {"local_steps": 2, "client_momentum": "local", "server_optimizer": "momentum"},
  "scaffold": {"local_steps": 2},
  "periodic": {"local_steps": 2},
  "gaia": {"batch_stats": "mean"},
  "dgc": {"sparsity": 0.9},
  "splitfed_v1": {"local_steps": 2, "client_momentum": "local"},
  "splitfed_v2": {"local_steps": 2, "client_momentum": "local"},
}
# The phase changes after the first of the two evaluations.
RUN = {"rounds": 4, "eval_every": 2, "freeze_round": 2, "batch_size": 4, "lr": 0.1}
OWNERS = np.repeat(np.arange(5), (20, 7, 13, 9, 11))
CLIENTS, COHORT = 5, 3

# The bytes of the net below: all of it, and of its first stage, which split learning cuts off.
PARAMS, STATS = 4 * (4 * 2 + 4 + 2 * 4 + 4), 4 * 4
FIRST_PARAMS, ACTIVATION, LABEL = 4 * (4 * 2 + 4), 4 * (3 * 3 * 2), 4


class Net(Staged):
  """A convolution with the norm, and a dense layer: two stages, so that it can be cut."""

  norm: NormSpec
  num_classes: int = 4

  def stages(self) -> Sequence[Stage]:
    def conv(x, mode: Mode):
      x = Conv(2, (2, 2), self.norm, strides=(2, 2), name="Conv_0")(x, mode)
      return jax.nn.relu(Norm(self.norm, name="Norm_0")(x, mode))

    def head(x, mode: Mode):
      return Dense(self.num_classes, self.norm, name="Dense_0")(x.mean((1, 2)), mode)

    return ("conv", conv), ("head", head)


class Crossing(NamedTuple):
  """The bytes that a client of an averaging method exchanges, counted where it is traced.

  Attributes:
    moving: whether running statistics move.
    down: of what it receives.
    up: of what it uploads.
    stats: of the statistics that it has afterwards.
  """

  moving: bool
  down: int
  up: int
  stats: int


def num_bytes(tree: Any, without: str = "") -> int:
  """Of arrays or tracers, by NumPy and leaf by leaf, without those whose path holds a text."""
  return sum(
    np.zeros(leaf.shape, leaf.dtype).nbytes
    for path, leaf in jax.tree.leaves_with_path(tree)
    if not without or without not in jax.tree_util.keystr(path)
  )


def watched(method: Method, seen: list[Crossing], sent="", received="") -> Method:
  """The method, which notes down what its clients exchange; without leaves of some paths."""

  def build(config, setup):
    made = method.build(config, setup)
    if not isinstance(made, Averaging):
      return made

    def client(server, own, examples, context):
      update = made.client(server, own, examples, context)
      stats = num_bytes(update.trained.variables.get("batch_stats", {}))
      moving = setup.model.norm.updates_running_statistics
      crossing = num_bytes(server, received), num_bytes(update.upload, sent), stats
      seen.append(Crossing(moving, *crossing))
      return update

    return made._replace(client=client)

  return dataclasses.replace(method, build=build)


def make_config(method: Method, **options):
  return configure(config_of(method), **{**RUN, **OPTIONS.get(method.name, {}), **options})


class Whole(NamedTuple):
  """An undisturbed run.

  Attributes:
    method: a row of the registry.
    task: the federation and the model.
    program: what ran, which no test compiles again.
    config: its options.
    outcome: what came out.
    states: (the server's state, the clients' states), at each of the two evaluations.
    cohorts: [rounds, m] the clients of each round.
    crossings: what its clients exchanged, of averaging methods alone.
  """

  method: Method
  task: Task
  program: Program
  config: Any
  outcome: Outcome
  states: list[tuple[Any, Any]]
  cohorts: np.ndarray
  crossings: set[Crossing]

  @property
  def algorithm(self) -> Algorithm:
    return self.program.phases["explore"].algorithm

  def start(self):
    """(the server's state, all clients' states) before the first round."""
    server = self.algorithm.init(jax.tree.map(jnp.asarray, initial_variables(self.task, 0)))
    one = self.algorithm.init_client(server)
    return server, jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], CLIENTS, 0), one)

  def context(self, round_: int) -> RoundContext:
    theta = self.program.theta_schedule.values[round_] if self.program.theta_schedule else 0.0
    rate = np.float32(self.program.rates[round_])
    data = jax.tree.map(jnp.asarray, self.task.data)
    return RoundContext(data, jnp.int32(round_), rate, jax.random.key(0), np.float32(theta))


def run_whole(method: Method, task: Task) -> Whole:
  """A run of a method by the mapping that ``auto`` chooses, in cohorts where it has them."""
  states, seen = [], []
  method = watched(method, seen)
  config = make_config(method, cohort=None if method.all_clients else COHORT)
  program = make_program(method, task, config)

  def evaluate(algorithm, server, store, data, key):
    states.append(jax.tree.map(np.array, (server, store.arrays)))
    return program.evaluate(algorithm, server, store, data, key)

  seen.clear()  # of the ledger itself
  variables = initial_variables(task, 0)
  outcome = train(program._replace(evaluate=evaluate), config, task.data, variables)
  drawn = cohorts(jax.random.key(0), 0, RUN["rounds"], CLIENTS, config.cohort_of(CLIENTS))
  return Whole(method, task, program, config, outcome, states, np.asarray(drawn), {*seen})


class Replay(NamedTuple):
  """The first two rounds of a run again, under vmap.

  Attributes:
    server: its state after them.
    clients: those of all clients.
    metrics: summed over them.
    shares: of sparse updates, what was sent in each round.
  """

  server: Any
  clients: Any
  metrics: Metrics
  shares: list[list[Any]]


def run_again(whole: Whole) -> Replay:
  """The first two rounds of a run under vmap, with a row of -1 among each cohort.

  Raises:
    UserError: the method refuses the mapping.
  """
  shares, sent = [], []

  def divide(values, chosen, original=residual.divide):
    share, rest = original(values, chosen)
    jax.debug.callback(lambda s: shares.append(jax.tree.map(np.array, s)), share)
    return share, rest

  config = dataclasses.replace(whole.config, backend="vmap")
  program = make_program(whole.method, whole.task, config)
  (server, clients), total = whole.start(), Metrics.zeros()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(residual, "divide", divide)
    round_ = jax.jit(program.phases["explore"].algorithm.round)
    for index, cohort in enumerate(whole.cohorts[:2]):
      rows = np.insert(cohort, 1 + index, -1)
      states = jax.tree.map(lambda a, rows=rows: a[rows], clients)
      server, states, metrics = round_(server, states, rows, whole.context(index))
      total = optax.tree.add(total, metrics)
      jax.effects_barrier()
      sent.append([one for one in shares if any(leaf.any() for leaf in jax.tree.leaves(one))])
      shares.clear()
      states = jax.tree.map(lambda a, gap=1 + index: np.delete(a, gap, 0), states)
      for old, new in zip(jax.tree.leaves(clients), jax.tree.leaves(states), strict=True):
        old[cohort] = new
  return Replay(server, clients, total, sent)
