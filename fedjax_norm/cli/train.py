"""What the binaries that train have in common: seeds, folders, the report."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_norm.cli import app, run_report, seeds
from fedjax_norm.cli.config import Config
from fedjax_norm.data import example_order
from fedjax_norm.data.examples import Source
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError
from fedjax_norm.training.build_program import check_mapping, in_force, make_program
from fedjax_norm.training.loop import train
from fedjax_norm.training.outcome import summary
from fedjax_norm.training.placement.client_placement import (
  global_channel_statistics,
  local_examples,
)
from fedjax_norm.training.placement.processes import is_main
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.skewscout import make_dial
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.final_model import save_model
from fedjax_norm.training.storage.run_folder import ReadOnlyFolder, RunFolder
from fedjax_norm.training.task import config as task_config
from fedjax_norm.training.task.constant_baseline import no_better_than_guessing
from fedjax_norm.training.task.task import Task

# What the first of several processes writes, and the others have to find, in the run's folder.
_TOKEN, _TOKEN_SECONDS = "shared.token", 20

Make = Callable[[Task, Any], Program]
"""(the task of a seed, the flags in force) -> the program."""

Settle = Callable[[Config], tuple[Config, Task]]
"""The flags, of one seed -> (the same with the values in force, the task)."""


def make(task: Task, config: Any) -> Program:
  """The program of the method that the flags are of."""
  return make_program(config.row, task, config)


def run(config: Any, make: Make = make) -> None:
  """Trains with one seed or several.

  Args:
    config: the flags, of ``config_of``.
    make: makes the program.
  """
  check(config)
  settle = _settle_apart if jax.process_count() > 1 else settler(load(config))
  settled, task = settle(config)
  program = make(task, settled)
  run_report.announce(settled, task, program)
  path = app.new_folder(config)
  if config.seeds == 1:
    run_seed(settled, task, program, path)
    return
  summaries: dict[int, dict[str, Any]] = {}
  with open_folder(path, settled) as folder:
    for seed in range(config.seed, config.seed + config.seeds):
      one, task = settle(dataclasses.replace(config, seed=seed, seeds=1))
      # Another seed mostly runs the same compiled program on other data.
      timed = config.network and config.batch_stats == "recalibrate"
      if config.of_a_seed or timed or (config.freeze_round == "auto" and config.steps_vary):
        program = make(task, one)
      summaries[seed] = run_seed(one, task, program, path / f"seed_{seed}")
    result = seeds.summarize(list(summaries.values()))
    folder.write_summary(result)
    seeds.print_table(summaries, result)


def check(config: Any) -> None:
  """Refuses what is wrong with the flags alone, before data is read.

  Raises:
    UserError: something is, in one of the seeds.
  """
  dataclasses.replace(config, seed=config.seed + config.seeds - 1)
  check_mapping(config.row, config)
  if not config.follows_data:
    known = config.in_rounds(config.clients or 10, 10**6)
    known.check_rounds(known.rounds)
    make_dial(known, known.row, known.rounds)


def load(config: Config, select_local: SelectLocal | None = None) -> Source:
  """The data of a run (see ``sources.from_config``)."""
  return sources.from_config(config, config.task, config.seed, select_local)


def settler(source: Source) -> Settle:
  """Settles the flags of runs on the same data."""

  def settle(config: Config) -> tuple[Config, Task]:
    train = source.train
    division = partitions.from_config(config, train.labels, train.clients, config.seed)
    config = resolve(config, source, division)
    task = make_task(config, source, division)
    return _in_force(task, config), task

  return settle


def _in_force(task: Task, config: Config) -> Config:
  """The flags with the values that the method takes on a task."""
  return in_force(config.row, task, config) if config.row else config


def resolve(config: Config, source: Source, division: Partition) -> Config:
  """The flags with lengths in rounds, and the values in force that follow from the data."""
  config = task_config.resolve(config, source.train.labels, source.train.clients)
  config = config.in_rounds(len(division.offsets) - 1, len(division.order))
  return example_order.resolve(config, config.rounds)


def make_task(
  config: Config,
  source: Source,
  division: Partition,
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> Task:
  """The task of one seed.

  Args:
    config: the flags, resolved.
    source: the data.
    division: of its training examples over clients.
    statistics: the channels' mean and deviation; None takes those of the source's images.
  """
  return task_config.from_config(
    config,
    source,
    division,
    config.seed,
    config.rounds,
    config.steps(partitions.sizes(division)),
    statistics=statistics,
    members=config.members,
    labelled=config.labelled,
  )


def _settle_apart(config: Config) -> tuple[Config, Task]:
  """In one of several processes, which reads the images of its own clients alone."""
  found: list[tuple[Partition, np.ndarray]] = []

  def select_local(labels: np.ndarray, owners: np.ndarray | None) -> np.ndarray:
    division = partitions.from_config(config, labels, owners, config.seed)
    found.append((division, local_examples(division)))
    return found[-1][1]

  source = load(config, select_local)
  division, own = found[-1]
  config, statistics = resolve(config, source, division), None
  if config.by_channel:
    statistics = global_channel_statistics(source.train.images, own, config.prepare)
  task = make_task(config, source, division, statistics)
  return _in_force(task, config), task


def open_folder(path: Path, config: Config) -> RunFolder:
  """The run's folder; of several processes the first alone writes to it.

  Raises:
    UserError: it cannot be used, or a process does not see what the first one wrote to it.
  """
  own = (path, config.saved(), config.resume, config.wait_for_workdir)
  folder = RunFolder.open(*own) if is_main() else None
  if folder and jax.process_count() == 1:
    return folder
  token = np.frombuffer(os.urandom(8), np.uint32)
  if folder:
    write_atomic(folder.path / _TOKEN, token.tobytes())
  token = np.asarray(multihost_utils.broadcast_one_to_all(token))
  if folder:
    return folder
  for _ in range(_TOKEN_SECONDS):  # a network's file system may take its time
    if (path / _TOKEN).is_file() and (path / _TOKEN).read_bytes() == token.tobytes():
      return ReadOnlyFolder(path)
    time.sleep(1)
  raise UserError(
    f"process {jax.process_index()} does not see in {path.absolute()} what process 0 wrote to its "
    "--workdir; give all processes one folder that all of them can reach."
  )


def run_seed(config: Config, task: Task, program: Program, path: Path) -> dict[str, Any]:
  """Runs one seed in its own folder, shows it and gives its summary."""
  variables = initial_variables(task, config.seed)
  title = f"{config.data}, {config.model_name}, {config.norm}, {task.data.num_clients} clients"
  with open_folder(path, config) as folder:
    if is_main():
      run_report.tell_resumed(folder, config.rounds)
      run_report.draw_start(folder, task, f"{title} by {config.partition}")
      if config.algorithm == "ssgd":
        run_report.tell_communication(folder, config, task)
    outcome = train(program, config, task.data, variables, folder, config.progress)
    guesses = no_better_than_guessing(task, outcome.rows[-1])
    result = {**summary(outcome), "no_better_than_guessing": guesses}
    if lost := sorted((folder.read_summary() or {}).keys() - result.keys()):
      raise UserError(
        f"{folder.path / 'metrics.csv'} has no column {', '.join(lost)}, which summary.json tells "
        "of; restore its first line or pass another --workdir."
      )
    folder.write_summary(result)
    if is_main():
      save_model(folder.path, outcome.variables)
      run_report.write_clients(folder, program, outcome)
      if program.messages:
        write_table(folder.path / "messages.csv", program.messages.rows())
      run_report.draw_end(folder, outcome, title)
      run_report.print_end(folder, result)
  return result
