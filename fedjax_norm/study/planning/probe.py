"""Measures how long the runs of a contender take, by a few rounds of it."""

import dataclasses
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from fedjax_norm.cli import train
from fedjax_norm.control.freeze import Freeze
from fedjax_norm.study.planning.budget import Cost
from fedjax_norm.training import loop
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task

_ROUNDS, _STEPS = 4, 10  # fewest rounds and local steps of a long interval
_SAVED = 3  # rounds with checkpoints


def measure(config: Any, task: Task, rounds_per_step: float) -> Cost:
  """Returns the measured times of a contender.

  The first of three intervals is compiled. The second has as many rounds, and the third has only
  one: they tell the times of a round and of an evaluation. A few more intervals of one round, with
  checkpoints, tell the time of a checkpoint.

  Args:
    config: the options of its runs, with all defaults filled in.
    task: its task.
    rounds_per_step: rounds for each local step of a client.
  """
  rounds = max(_ROUNDS, round(_STEPS * rounds_per_step))
  config = dataclasses.replace(config, rounds=2 * rounds + 1, eval_every=rounds)
  clock = [time.perf_counter()]

  def lap(*_: Any) -> None:
    clock.append(time.perf_counter())

  program = train.make(task, config)
  if program.freeze:  # only after the last round, because the next phase has another program
    program = program._replace(freeze=Freeze(config.rounds))
  variables = initial_variables(task, config.seed)
  lap()
  loop.train(program, config, task.data, variables, None, on_evaluation=lap)
  config = dataclasses.replace(config, rounds=_SAVED, eval_every=1)
  with tempfile.TemporaryDirectory() as path, RunFolder.open(Path(path, "run"), {}) as folder:
    loop.train(program, config, task.data, variables, folder, on_evaluation=lap)
  times = (after - before for before, after in itertools.pairwise(clock))
  start, first, long, short, _, *saved = times  # the first checkpoint follows a start
  round_seconds = max(long - short, 0.1 * long) / (rounds - 1)  # where it is lost in the noise
  evaluation = max(0.0, short - round_seconds)
  checkpoint = max(0.0, min(saved) - short)
  return Cost(
    start, max(0.0, first - long), round_seconds * rounds_per_step, evaluation, checkpoint
  )
