"""The work of the training binaries: loads the data, trains with each seed, writes the reports."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_norm.cli import app, run_report, seeds, start_table
from fedjax_norm.cli.config import Config
from fedjax_norm.data import example_order
from fedjax_norm.data.examples import Source
from fedjax_norm.data.held_out import HeldOutExamples
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources import config as data_config
from fedjax_norm.errors import UserError
from fedjax_norm.training import extension
from fedjax_norm.training.build_program import check_mapping, fill_defaults, make_program
from fedjax_norm.training.finished_run import save_serving
from fedjax_norm.training.loop import Callback, train
from fedjax_norm.training.outcome import summary
from fedjax_norm.training.placement import client_placement
from fedjax_norm.training.placement.processes import is_main
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.reuse import Programs
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.skewscout_run import make_theta_schedule
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.final_model import save_model
from fedjax_norm.training.storage.run_folder import ReadOnlyFolder, RunFolder
from fedjax_norm.training.storage.wandb_log import WandbLog, check_installed
from fedjax_norm.training.task import config as task_config
from fedjax_norm.training.task.constant_baseline import constant_mean_iou, no_better_than_guessing
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Variables

# File by which processes check that they share the run's folder, and how long they wait for it.
_TOKEN, _TOKEN_SECONDS = "shared.token", 20

Make = Callable[[Task, Any], Program]
"""Builds the program of a run: (task of a seed, config with all defaults filled in) -> program."""


def make(task: Task, config: Any) -> Program:
  """Returns the program that trains with the config's method."""
  return make_program(config.row, task, config)


def run(config: Any, make: Make = make) -> None:
  """Trains with each seed of ``config``, an object of a class that ``config_of`` returns."""
  check(config)
  source = None if jax.process_count() > 1 else load(config)
  programs = Programs(make)
  first, task = prepare(config, source)
  start_table.print_start(first, task, programs.of(task, first))
  run_seeds(config, source, (first, task), app.new_folder(config), programs)


def run_seeds(
  config: Any,
  source: Source | None,
  prepared: tuple[Config, Task],
  path: Path,
  programs: Programs,
  on_evaluation: Callback | None = None,
  on_end: Callable[[int], None] = lambda seed: None,
) -> None:
  """Trains with each seed of ``config`` in the folder ``path``, and writes and prints the results.

  Args:
    config: an object of a class that ``config_of`` returns.
    source: the data of the run; None loads only the images of this process's clients.
    prepared: result of :func:`prepare`, so that nothing is read and computed twice.
    path: the folder; with several seeds, each has a folder of its own in it.
    programs: builds the programs.
    on_evaluation: is called after each evaluation (see ``loop.train``).
    on_end: is called with each seed after its run.
  """
  first, task = prepared
  if config.seeds == 1:
    run_seed(first, task, programs.of(task, first), path, on_evaluation)
    on_end(config.seed)
    return
  summaries: dict[int, dict[str, Any]] = {}
  with open_folder(path, first) as folder:
    for seed in range(config.seed, config.seed + config.seeds):
      one, task = prepare(dataclasses.replace(config, seed=seed, seeds=1), source)
      program = programs.of(task, one)
      summaries[seed] = run_seed(one, task, program, path / f"seed_{seed}", on_evaluation)
      on_end(seed)
    result = seeds.summarize(list(summaries.values()))
    folder.write_summary(result)
    seeds.print_table(summaries, result, task.num_classes)


def check(config: Any) -> None:
  """Raises UserError for options that are wrong for one of the seeds, before data is read."""
  dataclasses.replace(config, seed=config.seed + config.seeds - 1)  # checks the last seed
  check_mapping(config.row, config)
  if config.wandb:
    check_installed()
  if not config.follows_data:
    known = config.in_rounds(config.clients or 10, 10**6)
    known.check_rounds(known.rounds)
    make_theta_schedule(known, known.row, known.rounds)


def load(config: Config, select_local: SelectLocal | None = None) -> Source:
  """Returns the data of a run, with all training examples (see ``data_config.from_config``)."""
  return data_config.from_config(config, config.task, select_local)


def prepare(config: Config, source: Source | None) -> tuple[Config, Task]:
  """Returns the config of one seed with all defaults filled in, and the task of this seed.

  ``source`` is the result of :func:`load`; None loads only the images of this process's clients.
  """
  if source is None:
    return _prepare_local(config)
  source = data_config.share(source, config, config.seed)
  train = source.train
  partition = partitions.from_config(config, train.labels, train.clients, config.seed)
  config = task_config.resolve(config, train.labels, train.clients)
  source, partition, held_out = task_config.divide(config, source, partition, config.seed)
  config = resolve(config, source, partition)
  task = make_task(config, source, partition, held_out=held_out)
  return _fill_defaults(task, config), task


def _fill_defaults(task: Task, config: Config) -> Config:
  """Returns the config with the defaults that its method has for a task."""
  return fill_defaults(config.row, task, config) if config.row else config


def resolve(config: Config, source: Source, partition: Partition) -> Config:
  """Returns the config with all lengths in rounds and the defaults that depend on the data."""
  config = task_config.resolve(config, source.train.labels, source.train.clients)
  config = config.in_rounds(len(partition.offsets) - 1, len(partition.order))
  return example_order.resolve(config, config.rounds)


def make_task(
  config: Config,
  source: Source,
  partition: Partition,
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
  held_out: HeldOutExamples | None = None,
) -> Task:
  """Returns the task of one seed.

  Args:
    config: result of :func:`resolve`.
    source: data of the run.
    partition: partition of the training examples over clients.
    statistics: mean and standard deviation of each channel; None computes them from ``source``.
    held_out: examples that were held out of ``source`` and ``partition``, if any.
  """
  return task_config.from_config(
    config,
    source,
    partition,
    config.seed,
    config.rounds,
    config.steps(partitions.sizes(partition)),
    statistics=statistics,
    members=config.members,
    labelled=config.labelled,
    held_out=held_out,
  )


def _prepare_local(config: Config) -> tuple[Config, Task]:
  """Returns the results of :func:`prepare`; loads only the images of this process's clients."""
  selected: list[tuple[Partition, np.ndarray]] = []

  def select_local(labels: np.ndarray, owners: np.ndarray | None) -> np.ndarray:
    partition = partitions.from_config(config, labels, owners, config.seed)
    selected.append((partition, client_placement.local_examples(partition)))
    return selected[-1][1]

  source = load(config, select_local)
  source, partition, _ = task_config.divide(config, source, selected[-1][0], config.seed)
  examples = selected[-1][1]
  config, statistics = resolve(config, source, partition), None
  if config.by_channel:
    images = source.train.images
    statistics = client_placement.global_channel_statistics(images, examples, config.prepare)
  task = make_task(config, source, partition, statistics)
  return _fill_defaults(task, config), task


def open_folder(path: Path, config: Config, continues: bool = True) -> RunFolder:
  """Opens the run's folder, to which only process 0 writes.

  ``continues`` is whether the run may continue one of another number of rounds.

  Raises:
    UserError: another run uses the folder, or it does not fit the config; or the path names another
      folder in this process than in process 0.
  """
  obstacle = partial(extension.obstacle, config) if continues else None
  options = (path, config.saved(), config.resume, config.wait_for_workdir, obstacle)
  folder = RunFolder.open(*options) if is_main() else None
  if folder and jax.process_count() == 1:
    return folder
  token = np.frombuffer(os.urandom(8), np.uint32)
  if folder:
    write_atomic(folder.path / _TOKEN, token.tobytes())
  token = np.asarray(multihost_utils.broadcast_one_to_all(token))
  if folder:
    return folder
  for _ in range(_TOKEN_SECONDS):  # a network file system can be late
    if (path / _TOKEN).is_file() and (path / _TOKEN).read_bytes() == token.tobytes():
      return ReadOnlyFolder(path)
    time.sleep(1)
  raise UserError(
    f"process {jax.process_index()} does not find the file of process 0 in {path.absolute()}; pass "
    "all processes the same --workdir, a folder that every machine can reach."
  )


def run_seed(
  config: Config, task: Task, program: Program, path: Path, on_evaluation: Callback | None = None
) -> dict[str, Any]:
  """Trains with one seed in the folder ``path``, reports the results and returns their summary."""
  variables = initial_variables(task, config.seed)
  title = f"{config.data}, {config.model_name}, {config.norm}, {task.data.num_clients} clients"
  with open_folder(path, config) as folder, _wandb(config, folder) as log:
    if is_main():
      run_report.print_resumed(folder, config.rounds)
      run_report.draw_partition(folder, task, f"{title} by {config.partition}")
      if config.algorithm == "ssgd":
        run_report.print_communication(folder, config, task)

    def report(round: int, row: dict[str, Any], model: Variables) -> None:
      if log:
        log.on_evaluation(round, row, model)
      if on_evaluation:
        on_evaluation(round, row, model)

    told = report if log or on_evaluation else None
    outcome = train(program, config, task.data, variables, folder, config.progress, told)
    guesses = no_better_than_guessing(task, outcome.rows[-1])
    result = {**summary(outcome, config.average_last), "no_better_than_guessing": guesses}
    if task.kind == "segmentation":
      result["constant_mean_iou"] = constant_mean_iou(task)
    if missing := sorted((folder.read_summary() or {}).keys() - result.keys()):
      raise UserError(
        f"{folder.path / 'metrics.csv'} has no column {', '.join(missing)}, but summary.json has; "
        "restore the first line of metrics.csv or pass another --workdir."
      )
    if is_main():
      save_serving(folder.path, config, task)
      save_model(folder.path, outcome.variables)
    folder.write_summary(result)  # the last file that readers of a finished run need
    if log:
      log.summarize(result)
    if is_main():
      run_report.write_clients(folder, program, outcome)
      if program.messages:
        write_table(folder.path / "messages.csv", program.messages.rows())
      run_report.draw_results(folder, task, outcome, title)
      run_report.print_end(folder, result)
  return result


def _wandb(config: Config, folder: RunFolder) -> contextlib.AbstractContextManager[WandbLog | None]:
  """Returns the log of a run at Weights & Biases; no log without ``--wandb``."""
  if not config.wandb or not is_main():
    return contextlib.nullcontext()
  one_of_several = folder.path.name == f"seed_{config.seed}"
  group = folder.path.parent.name if one_of_several else None
  return WandbLog(folder, config.wandb_project, group)
