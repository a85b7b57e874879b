"""The loop of every run: intervals of compiled rounds, and between them the world outside."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.control.skewscout import ScoutState
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import DivergedError, expect
from fedjax_norm.evaluation.measures import measures_of
from fedjax_norm.local import Metrics
from fedjax_norm.objectives import find
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.interval_planner import Controls, Interval, next_interval, observe
from fedjax_norm.training.outcome import Outcome
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.rounds import (
  RunContext,
  Spent,
  full_participation_cost,
  make_client_store,
  recalibrate,
  run_interval,
)
from fedjax_norm.training.storage.checkpoint import Checkpoints
from fedjax_norm.training.storage.resume import resume
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.terminal.progress import Progress
from fedjax_norm.training.terminal.signals import uninterrupted
from fedjax_norm.typing import PyTree, Variables

Callback = Callable[[int, dict[str, Any], Variables], bool | None]
"""(round, the row of ``metrics.csv``, the global model as host arrays) -> True to end the run."""


class _State(NamedTuple):
  """Everything a checkpoint holds."""

  server: PyTree
  clients: PyTree
  controls: Controls
  round: int
  spent: Spent
  seconds: float


def train(
  program: Program,
  config: LoopConfig,
  data: FederatedData,
  variables: Variables,
  folder: RunFolder | None = None,
  show_progress: bool = False,
  on_evaluation: Callback | None = None,
) -> Outcome:
  """Trains to the last round, or goes on from a folder's checkpoint.

  Args:
    program: what to run.
    config: its length and seed.
    data: the federation, host arrays.
    variables: the initial model; it stays as it is.
    folder: where rows and checkpoints go; nothing is written without one.
    show_progress: whether to draw a progress bar.
    on_evaluation: called after each evaluation, once its row and its checkpoint are saved. The run
      ends early when it returns True; what it raises stops the run, and what was saved stays.

  Raises:
    UserError: an argument of a wrong type, a cohort larger than the population, data that fits no
      memory, or a folder that has lost a part of its run.
    DivergedError: a loss is not finite; what was saved before stays.
  """
  expect("config", config, LoopConfig)
  expect("folder", folder, RunFolder | None)
  algorithm = next(iter(program.phases.values())).algorithm
  # A copy, for the programs take over the memory of the states they are given.
  server = algorithm.init(jax.tree.map(jnp.array, variables))
  store = make_client_store(program.nodes, algorithm.init_client(server), data.num_clients)
  controls, round_, spent, seconds = Controls.initial(program, variables), 0, Spent(), 0.0
  rows: list[dict[str, Any]] = []
  diagnosed: list[dict[str, Any]] = []
  accuracies: dict[int, float] = {}
  with contextlib.ExitStack() as stack:
    checkpoints = None
    if folder:
      checkpoints = stack.enter_context(Checkpoints(folder.path / "checkpoints"))
      if folder.resumed:
        state = _State(server, store.saved(), controls, round_, spent, seconds)
        (server, clients, controls, *numbers), rows = resume(folder, checkpoints, state)
        store.restore(clients)
        round_, spent, seconds = jax.tree.map(lambda a: np.asarray(a).item(), numbers)
        diagnosed = folder.diagnostics()
    run = RunContext.create(program, config, data, store, round_)
    server = run.place(server)
    stack.enter_context(run.feed)
    bar = stack.enter_context(Progress(config.rounds, round_, show_progress))

    while round_ < config.rounds:
      started = time.perf_counter()
      interval = next_interval(program, config, controls, round_)
      phase, round_ = program.phases[interval.phase], interval.end
      server, total, here = run_interval(run, interval, server)
      _check_finite(total.loss, interval, folder)
      server, more = recalibrate(run, phase, server)
      scores, accuracies = program.evaluate(phase.algorithm, server, store, data, run.key)
      _check_finite(scores["loss"], interval, folder)

      loss = _mean(total.loss, total)
      controls = observe(program, config, controls, interval, server, loss, here.traffic)
      spent += here + more
      accuracy_loss = rows[-1]["accuracy_loss"] if program.skewscout and rows else float("nan")
      if controls.scout and round_ == controls.scout.next_look:
        scout, accuracy_loss, journey = _look(run, config, controls.scout, interval, server)
        controls, spent = controls._replace(scout=scout), spent + journey

      elapsed = time.perf_counter() - started
      seconds += elapsed
      columns = {k: np.asarray(v).item() for k, v in algorithm.report.columns(server).items()}
      row = _row(program, interval, total, scores, accuracy_loss, spent, seconds) | columns
      rows.append(row)
      found: list[dict[str, Any]] = []
      if program.diagnose:
        key = jax.random.key(config.seed)
        found = program.diagnose(interval.phase, phase.algorithm, server, store, data, round_, key)
      if folder and checkpoints:
        on_host = jax.tree.map(np.asarray, server)
        state = _State(on_host, store.saved(), controls, round_, spent, seconds)
        with uninterrupted():
          if found:
            folder.append_diagnostics(found)
          # The row first: a kill in between leaves one row too many, which resuming cuts off.
          folder.append(row)
          checkpoints.save(round_, state)
      diagnosed += found
      measure, tested = next(iter(measures_of(row).items()))
      told = f"{tested.title} {tested.format(row[measure])}"
      bar.update(round_, loss, told, total.examples / elapsed)
      if on_evaluation:  # with copies, for the program takes over the memory of the server's state
        model = jax.tree.map(np.array, server.variables)
        if on_evaluation(round_, dict(row), model):
          break
  model = jax.tree.map(np.asarray, server.variables)
  return Outcome(model, store, rows, controls.frozen_at, accuracies, diagnosed)


def _check_finite(loss: float, interval: Interval, folder: RunFolder | None) -> None:
  if np.isfinite(loss):
    return
  first, last = interval.first, interval.end
  kept = f"; the checkpoint of round {first} is kept in {folder.path}" if folder and first else ""
  raise DivergedError(
    f"the loss became infinite or not a number between rounds {first} and {last}{kept}; lower the "
    "learning rate or clip gradients (after a FixBN freeze, by its own settings)."
  )


def _mean(value: np.ndarray, total: Metrics) -> float:
  """Over an interval's labelled examples; nan if there were none."""
  return float(value / total.examples) if total.examples else float("nan")


def _look(
  run: RunContext, config: LoopConfig, state: ScoutState, interval: Interval, server: PyTree
) -> tuple[ScoutState, float, Spent]:
  """(SkewScout's state after it has looked, the accuracy loss, what the models' journey took)."""
  assert run.program.skewscout
  state, loss, journey = run.program.skewscout.look(
    state,
    interval.phase,
    run.program.phases[interval.phase].algorithm,
    server,
    run.store,
    run.feed.window(interval.end - 1).data,
    run.place,
    run.key,
    interval.end,
    config.seed,
  )
  nothing = np.zeros_like(run.sizes)
  return state, loss, full_participation_cost(run, journey, nothing, nothing)


def _row(
  program: Program,
  interval: Interval,
  total: Metrics,
  scores: dict[str, float],
  accuracy_loss: float,
  spent: Spent,
  seconds: float,
) -> dict[str, Any]:
  """What ``metrics.csv`` tells of an interval, but for the algorithm's own columns."""
  right = find(program.objective).train_column
  return {
    "round": interval.end,
    "phase": interval.phase,
    "train_loss": _mean(total.loss, total),
    **({right: _mean(total.correct, total)} if right else {}),
    **scores,
    "rate": float(interval.rates[-1]),
    **({"theta": float(interval.thetas[-1])} if program.theta_schedule else {}),
    **({"accuracy_loss": accuracy_loss} if program.skewscout else {}),
    "examples": int(total.examples),
    **spent.traffic._asdict(),
    "seconds": seconds,
    **({"simulated_seconds": spent.simulated} if program.clock else {}),
  }
