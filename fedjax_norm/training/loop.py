"""The training loop: intervals of compiled rounds, with evaluation and checkpoints between them."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.control.skewscout import ScoutState
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import check_type
from fedjax_norm.evaluation.measures import measures_of
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.interval_planner import Controls, Interval, next_interval, observe
from fedjax_norm.training.metrics_row import check_finite, make_row, mean_over
from fedjax_norm.training.outcome import Outcome, best_index
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
from fedjax_norm.training.storage.final_model import BEST_MODEL, save_model
from fedjax_norm.training.storage.resume import resume
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.terminal.progress import Progress
from fedjax_norm.training.terminal.signals import uninterrupted
from fedjax_norm.typing import PyTree, Variables

Callback = Callable[[int, dict[str, Any], Variables], bool | None]
"""(round, row of ``metrics.csv``, global model as host arrays) -> True to end the run early."""


class _State(NamedTuple):
  """The contents of a checkpoint."""

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
  """Trains to the last round and returns the result; resumes from the folder's newest checkpoint.

  Args:
    program: the program of the run (see ``make_program``).
    config: length and seed of the run.
    data: the data of all clients, as host arrays.
    variables: the initial model, which is not modified.
    folder: folder for metrics and checkpoints; None writes nothing.
    show_progress: whether to draw a progress bar.
    on_evaluation: callback after each evaluation, when the row and the checkpoint are saved. The
      run ends early if the callback returns True. After an exception, saved files stay.

  Raises:
    UserError: an argument has a wrong type, the cohort exceeds the population, the data exceeds the
      device's memory, or the folder lacks files.
    DivergedError: the training or test loss is not finite; saved files stay.
  """
  check_type("config", config, LoopConfig)
  check_type("folder", folder, RunFolder | None)
  algorithm = next(iter(program.phases.values())).algorithm
  # A copy of each leaf, because the compiled programs donate the states that they receive.
  server = jax.tree.map(jnp.array, algorithm.init(variables))
  store = make_client_store(program.mapping, algorithm.init_client(server), data.num_clients)
  controls, round_, spent, seconds = Controls.initial(program, variables), 0, Spent(), 0.0
  rows: list[dict[str, Any]] = []
  diagnostics: list[dict[str, Any]] = []
  accuracies: dict[int, float] = {}
  details: dict[str, Any] = {}
  with contextlib.ExitStack() as stack:
    checkpoints = None
    if folder:
      checkpoints = stack.enter_context(Checkpoints(folder.path / "checkpoints"))
      if folder.resumed:
        state = _State(server, store.saved(), controls, round_, spent, seconds)
        (server, clients, controls, *numbers), rows = resume(folder, checkpoints, state)
        store.restore(clients)
        round_, spent, seconds = jax.tree.map(lambda a: np.asarray(a).item(), numbers)
        diagnostics, details = folder.diagnostics(), folder.read_evaluation()
    run = RunContext.create(program, config, data, store, round_)
    server = run.place(server)
    stack.enter_context(run.feed)
    bar = stack.enter_context(Progress(config.rounds, round_, show_progress))

    while round_ < config.rounds:
      started = time.perf_counter()
      interval = next_interval(program, config, controls, round_)
      phase, round_ = program.phases[interval.phase], interval.end
      server, total, training = run_interval(run, interval, server)
      check_finite(total.loss, interval, folder)
      server, recalibration = recalibrate(run, phase, server)
      tested = program.evaluate(phase.algorithm, server, store, data, run.key)
      scores, accuracies = tested.columns, tested.client_accuracies
      details = {"round": round_, **tested.details} if tested.details else {}
      check_finite(scores["loss"], interval, folder)

      loss = mean_over(total.loss, total)
      controls = observe(program, config, controls, interval, server, loss, training.traffic)
      spent += training + recalibration
      accuracy_loss = rows[-1]["accuracy_loss"] if program.skewscout and rows else float("nan")
      if controls.scout and round_ == controls.scout.next_look:
        scout, accuracy_loss, traveling = _look(run, config, controls.scout, interval, server)
        controls, spent = controls._replace(scout=scout), spent + traveling

      elapsed = time.perf_counter() - started
      seconds += elapsed
      columns = {k: np.asarray(v).item() for k, v in algorithm.report.columns(server).items()}
      row = make_row(program, interval, total, scores, accuracy_loss, spent, seconds) | columns
      rows.append(row)
      new_diagnostics: list[dict[str, Any]] = []
      if program.diagnose:
        inputs = server, store, data, round_, jax.random.key(config.seed)
        new_diagnostics = program.diagnose(interval.phase, phase.algorithm, *inputs)
      if folder and checkpoints:
        on_host = jax.tree.map(np.asarray, server)
        state = _State(on_host, store.saved(), controls, round_, spent, seconds)
        with uninterrupted():
          if new_diagnostics:
            folder.append_diagnostics(new_diagnostics)
          if details:
            folder.write_evaluation(details)
          # Before its row, so that the rows never tell of a better model than the saved one.
          if best_index(rows) == len(rows) - 1:
            save_model(folder.path, on_host.variables, BEST_MODEL)
            if details:
              folder.write_evaluation(details, best=True)
          # The row precedes the checkpoint: after a kill in between, resuming drops the extra row.
          folder.append(row)
          checkpoints.save(round_, state)
      diagnostics += new_diagnostics
      name, measure = next(iter(measures_of(row).items()))
      test_result = f"{measure.title} {measure.format(row[name])}"
      bar.update(round_, loss, test_result, total.examples / elapsed)
      if on_evaluation:
        model = jax.tree.map(np.array, server.variables)  # copies: the server state is donated
        if on_evaluation(round_, dict(row), model):
          break
  model = jax.tree.map(np.asarray, server.variables)
  return Outcome(model, store, rows, controls.frozen_at, accuracies, diagnostics, details)


def _look(
  run: RunContext, config: LoopConfig, state: ScoutState, interval: Interval, server: PyTree
) -> tuple[ScoutState, float, Spent]:
  """Lets SkewScout measure and choose the next theta; returns (its state, accuracy loss, costs)."""
  assert run.program.skewscout
  state, loss, cost = run.program.skewscout.measure(
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
  return state, loss, full_participation_cost(run, cost, nothing, nothing)
