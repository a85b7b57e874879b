"""Trains several learning rates of one run side by side on one device, in one compiled program.

A lane is a run with one of the rates. Lanes share data, cohorts, random keys and the initial
model, so that only the states of the server and the clients have an axis for the lanes, over which
the program of an interval is mapped by ``vmap``. On an accelerator that one run does not fill, this
takes little longer than one run. ::

  if can_share(program, config) is None:
    lanes = fitting_lanes(task, program, config)
    for group in itertools.batched(configs, lanes):
      results = train_lanes(program, group, task.data, variables)
"""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import DivergedError
from fedjax_norm.training.build_program import client_bytes
from fedjax_norm.training.interval_planner import Controls, Interval, next_interval, observe
from fedjax_norm.training.metrics_row import check_finite, make_row, mean_over
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.rounds import (
  RunContext,
  Spent,
  make_client_store,
  make_interval,
  recalibrate,
  run_rounds,
  sent_so_far,
  spent,
)
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import PyTree, Variables


class Lane(NamedTuple):
  """The result of a lane.

  Attributes:
    rows: rows of ``metrics.csv``; their ``seconds`` are those of all lanes together.
    reason: why there are no rows of later rounds, as one sentence, if training diverged.
  """

  rows: list[Row]
  reason: str | None = None


def can_share(program: Program, config: Any) -> str | None:
  """Returns why learning rates of a run cannot be trained side by side; None if they can."""
  mapping = program.mapping
  if mapping.mesh is not None:
    return "the clients are divided over several devices"
  if mapping.chunk == 1:
    return "the clients train one after another"
  if program.plateau:
    return "--lr_schedule=plateau lowers the learning rate of each run at another round"
  if program.freeze and program.freeze.round is None:
    return "--freeze_round=auto freezes the statistics of each run at another round"
  if program.skewscout:
    return "SkewScout chooses another theta in each run"
  if program.diagnose:
    return "--diagnostics measures one run at a time"
  if config.fine_tune_steps is not None:
    return "--fine_tune_steps depends on the learning rate"
  return "messages are sent one by one" if program.messages else None


def fitting_lanes(task: Task, program: Program, config: Any) -> int:
  """Returns the number of lanes whose clients fit into the device's memory; at least 1."""
  parallel = program.mapping.chunk or config.cohort_of(task.data.num_clients)
  return client_mapping.fitting(parallel * client_bytes(task, config), program.mapping.devices)


@functools.lru_cache(maxsize=8)
def _compile(algorithm: Algorithm, mapping: ClientMapping) -> Callable[..., Any]:
  """Returns ``make_interval`` with L lanes: states of the server [L, ...], clients [U, L, ...],
  metrics [L], rates and thetas [L, R]."""
  axes = (0, 1, 0, None, 0, 0, None, None, None, None, None)
  interval = jax.vmap(make_interval(algorithm, mapping), axes, (0, 1, 0))
  return jax.jit(interval, donate_argnums=(0, 1))


def train_lanes(
  program: Program,
  configs: Sequence[Any],
  data: FederatedData,
  variables: Variables,
  on_evaluation: Callable[[int], None] | None = None,
) -> list[Lane]:
  """Trains the runs of ``configs`` side by side; nothing is written and nothing can be resumed.

  Rows agree with those of the single runs (``loop.train``) to float tolerance. A lane that diverges
  does not change the others. A further call with as many lanes compiles nothing.

  Args:
    program: the program of any of the runs, for which ``can_share`` returns None.
    configs: options of the runs with all defaults filled in, which differ only in ``lr``.
    data: the data of all clients, as host arrays.
    variables: the initial model, which is not modified.
    on_evaluation: callback after each evaluation with the number of rounds done; after an
      exception, nothing is left to clean up.

  Returns:
    The results in the order of ``configs``.
  """
  first, count = configs[0], len(configs)
  lanes = [Lane([]) for _ in configs]

  def repeated(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a)[None], count, 0), tree)

  algorithm = next(iter(program.phases.values())).algorithm
  start = algorithm.init(variables)
  server = repeated(start)
  store = make_client_store(
    program.mapping, repeated(algorithm.init_client(start)), data.num_clients
  )
  compiled = {name: _compile(p.algorithm, program.mapping) for name, p in program.phases.items()}
  run = RunContext.create(program._replace(intervals=compiled), first, data, store, 0)
  programs = [program._replace(rates=config.rates(config.rounds)) for config in configs]
  controls, round_, costs = Controls.initial(program, variables), 0, [Spent()] * count
  started = time.perf_counter()
  with run.feed:
    while round_ < first.rounds and any(lane.reason is None for lane in lanes):
      intervals = [next_interval(one, first, controls, round_) for one in programs]
      before = [sent_so_far(algorithm, one) for one in _split(server, count)]
      server, totals, cohorts = run_rounds(run, _stack(intervals), server)
      phase, round_ = program.phases[intervals[0].phase], intervals[0].end
      tested = [recalibrate(run, phase, one) for one in _split(server, count)]
      if phase.recalibrate:
        server = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(one for one, _ in tested))
      for i, (lane, (one, recalibration)) in enumerate(zip(lanes, tested, strict=True)):
        if lane.reason:
          continue
        total = jax.tree.map(lambda a, i=i: a[i], totals)
        sent = sent_so_far(algorithm, one).minus(before[i])
        costs[i] += spent(run, phase.algorithm, cohorts, sent) + recalibration
        try:
          check_finite(total.loss, intervals[i], None)
          inputs = phase.algorithm, one, _store_of(store, i), data, run.key
          scores = program.evaluate(*inputs).columns
          check_finite(scores["loss"], intervals[i], None)
        except DivergedError as error:
          lanes[i] = lane._replace(reason=str(error))
          continue
        seconds = time.perf_counter() - started
        row = make_row(program, intervals[i], total, scores, float("nan"), costs[i], seconds)
        columns = algorithm.report.columns(one)
        lane.rows.append(row | {name: np.asarray(v).item() for name, v in columns.items()})
      # Only FixBN's freeze at a given round is left, which is the same in all lanes.
      any_lane, loss = tested[0][0], mean_over(totals.loss[0], jax.tree.map(lambda a: a[0], totals))
      traffic = costs[0].traffic
      controls = observe(program, first, controls, intervals[0], any_lane, loss, traffic)
      if on_evaluation:
        on_evaluation(round_)
  return lanes


def _split(tree: PyTree, count: int) -> list[PyTree]:
  """Returns the part of each lane, of arrays [L, ...]."""
  return [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(count)]


def _stack(intervals: list[Interval]) -> Interval:
  """Returns the interval of all lanes, with rates and thetas [L, rounds]."""
  rates, thetas = (np.stack([getattr(i, name) for i in intervals]) for name in ("rates", "thetas"))
  return intervals[0]._replace(rates=rates, thetas=thetas)


def _store_of(store: ClientStore, lane: int) -> ClientStore:
  """Returns the client states of a lane, whose arrays are views."""
  one = copy.copy(store)
  one.arrays = jax.tree.map(lambda a: a[:, lane], store.arrays)
  return one
