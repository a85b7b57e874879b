"""FedAvg, SSGD and asynchronous SGD as programs for the loop, and a run of one in a call."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm import models, nodes
from fedjax_norm.algorithms.asgd import AsgdConfig, asgd
from fedjax_norm.algorithms.base import Algorithm, round_cost
from fedjax_norm.algorithms.fedavg import FedAvgConfig, fedavg
from fedjax_norm.algorithms.ssgd import SsgdConfig, ssgd
from fedjax_norm.errors import UserError, expect
from fedjax_norm.keys import Stream, stream
from fedjax_norm.models.own import check_statistics
from fedjax_norm.training.assemble import assemble, clock_of, take_all
from fedjax_norm.training.loop import Callback, train
from fedjax_norm.training.loop_config import LoopConfig
from fedjax_norm.training.outcome import Outcome
from fedjax_norm.training.program import Program
from fedjax_norm.training.run_folder import RunFolder
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.task import Task
from fedjax_norm.typing import Variables


def make_fedavg(
  task: Task,
  config: FedAvgConfig,
  loop: LoopConfig,
  schedule: Schedule,
  network: str | None = None,
  **options: Any,
) -> Program:
  """FedAvg on a task.

  Args:
    task: the federation and the model.
    config: the algorithm.
    loop: the run's length.
    schedule: the clients' learning rate.
    network: the profile of a simulated clock (see ``clock.make``); None tells no simulated time.
    **options: of :func:`assemble`.

  Raises:
    UserError: options that do not fit together.
  """

  def build(model: nn.Module, config: FedAvgConfig, mapping: nodes.Nodes) -> Algorithm:
    return fedavg(model, config, mapping, task.transform, task.image_shape)

  clock = clock_of(task, network, config.local.batch_size) if network else None
  return assemble(task, config, build, loop, schedule, clock=clock, **options)


def make_ssgd(
  task: Task,
  config: SsgdConfig,
  loop: LoopConfig,
  schedule: Schedule,
  network: str | None = None,
  **options: Any,
) -> Program:
  """SSGD on a task, its clients being the workers; a round is a step of all of them.

  Args:
    task: the federation and the model.
    config: the algorithm.
    loop: the run's length, without a cohort.
    schedule: the master's learning rate.
    network: the profile of a simulated clock (see ``clock.make``); None tells no simulated time.
    **options: of :func:`assemble`.

  Raises:
    UserError: options that do not fit together.
  """
  take_all(task, loop, "SSGD")
  sizes = np.asarray(task.data.sizes)

  def build(model: nn.Module, config: SsgdConfig, mapping: nodes.Nodes) -> Algorithm:
    return ssgd(model, config, mapping, task.transform, task.image_shape, sizes)

  batches = config.batches(sizes)
  clock = clock_of(task, network, batches) if network else None
  options = {"clock": clock, "step_examples": batches, **options}
  return assemble(task, config, build, loop, schedule, **options)


def make_asgd(
  task: Task,
  config: AsgdConfig,
  loop: LoopConfig,
  schedule: Schedule,
  network: str = "lan",
  **options: Any,
) -> Program:
  """Asynchronous SGD on a task, its clients being the workers; a round is one worker's arrival.

  Args:
    task: the federation and the model.
    config: the algorithm.
    loop: the run's length, without a cohort.
    schedule: the master's learning rate.
    network: the profile of the simulated clock, which says who arrives when (see ``clock.make``).
    **options: of :func:`assemble`, but for the mapping: one worker computes at a time.

  Raises:
    UserError: options that do not fit together.
  """
  take_all(task, loop, "asynchronous SGD")
  if jax.process_count() > 1:
    raise UserError("asynchronous SGD is simulated in one process; drop --num_processes.")
  check_statistics(task.model, task.image_shape)  # before the model's norm is asked what it sends
  clock = clock_of(task, network, config.local.batch_size)
  # No later phase sends more than the first.
  longest = clock.event_seconds(round_cost(task.model, task.image_shape, "mean")).max()

  def build(model: nn.Module, config: AsgdConfig, mapping: nodes.Nodes) -> Algorithm:
    cost = round_cost(model, task.image_shape, config.batch_stats, config.local.frozen_paths)
    events = clock.event_seconds(cost)
    return asgd(model, config, task.transform, task.image_shape, events, longest)

  build(task.model, config, nodes.create("scan", num_nodes=1))  # refuses what it cannot honour
  return assemble(task, config, build, loop, schedule, backend="scan", **options)


def initial_variables(task: Task, seed: int, batch_size: int = 256) -> Variables:
  """The model before the first round, the same for all clients.

  With weight normalization its scales and biases come from one batch of training examples, drawn
  from all clients' data by the seed (Salimans and Kingma 2016, sec. 3).

  Args:
    task: the task.
    seed: of the run.
    batch_size: of the common batch.

  Raises:
    UserError: weight normalization in one of several processes.
  """
  if task.model.norm.weight_norm and jax.process_count() > 1:
    raise UserError(
      "weight normalization starts from a batch of all clients' examples, which no process of "
      "several holds; run it in one process or choose another norm."
    )
  init_key, batch_key = jax.random.split(stream(jax.random.key(seed), Stream.INIT))
  variables = models.init(task.model, init_key, task.image_shape)
  if task.model.norm.weight_norm:
    labels = task.source.train.labels
    rng = np.random.default_rng(np.asarray(jax.random.key_data(batch_key)))
    ids = rng.choice(len(labels), min(batch_size, len(labels)), replace=False)
    images = task.eval_transform(jnp.asarray(task.source.train.images[np.sort(ids)]))
    variables = models.data_init(task.model, variables, images)
  return variables


def run(
  make: Callable[..., Program],
  task: Task,
  config: Any,
  loop: LoopConfig,
  schedule: Schedule,
  *,
  folder: RunFolder | None = None,
  show_progress: bool = False,
  on_evaluation: Callback | None = None,
  **options: Any,
) -> Outcome:
  """Trains a task: a program and ``loop.train`` in one call.

  Args:
    make: of the algorithm, such as :func:`make_fedavg`.
    task: the federation and the model.
    config: the algorithm.
    loop: the run's length and seed.
    schedule: the learning rate.
    folder: where metrics and checkpoints go; None writes nothing.
    show_progress: whether to draw a progress bar.
    on_evaluation: called after each evaluation (see ``loop.train``).
    **options: further ones of ``make``.

  Raises:
    UserError: an argument of a wrong type, or options that do not fit together.
  """
  parameters = inspect.signature(make).parameters
  given = {"task": task, "config": config, "loop": loop, "schedule": schedule}
  for name, value in given.items():
    if name in parameters and isinstance(parameters[name].annotation, type):
      expect(name, value, parameters[name].annotation)
  expect("folder", folder, RunFolder | None)
  program = make(task, config, loop, schedule, **options)
  variables = initial_variables(task, loop.seed)
  return train(program, loop, task.data, variables, folder, show_progress, on_evaluation)


run_fedavg = functools.partial(run, make_fedavg)
run_ssgd = functools.partial(run, make_ssgd)
run_asgd = functools.partial(run, make_asgd)
