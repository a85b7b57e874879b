"""Trains a method on a task in one call, and draws the initial model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm import models
from fedjax_norm.algorithms.contract import Method
from fedjax_norm.algorithms.registry import find
from fedjax_norm.errors import UserError, check_type
from fedjax_norm.options import make
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.training import own_optimizers
from fedjax_norm.training.build_program import fill_defaults, make_program
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.loop import Callback, train
from fedjax_norm.training.outcome import Outcome
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Variables


def run(
  method: Method | str,
  task: Task,
  *groups: Any,
  folder: RunFolder | None = None,
  show_progress: bool = False,
  on_evaluation: Callback | None = None,
  **options: Any,
) -> Outcome:
  """Trains a model on a task with a method, and returns the model with measures and costs.

  Args:
    method: name of a method (``algorithms.registry``), or a user-defined ``Method``.
    task: the data of the clients, and the model (see ``make_task``).
    *groups: configs with some of the options, such as ``LoopConfig(rounds=10, eval_every=5)``.
    folder: folder for metrics and checkpoints; None writes nothing.
    show_progress: whether to draw a progress bar.
    on_evaluation: callback after each evaluation (see ``loop.train``).
    **options: further options by name, as on the command line: ``rounds=10, lr=0.05``.

  Raises:
    UserError: an argument has a wrong type, or options contradict each other.
  """
  check_type("task", task, Task)
  check_type("folder", folder, RunFolder | None)
  method = find(method) if isinstance(method, str) else method
  config = fill_defaults(method, task, make(config_of(method), *groups, **options))
  program = make_program(method, task, config)
  variables = initial_variables(task, config.seed)
  own_optimizers.check(config, variables["params"])
  return train(program, config, task.data, variables, folder, show_progress, on_evaluation)


def initial_variables(task: Task, seed: int, batch_size: int = 256) -> Variables:
  """Returns the initial model, which is the same for all clients.

  With weight normalization, the scales and biases are computed from ``batch_size`` random training
  examples of all clients (Salimans and Kingma 2016, sec. 3).

  Raises:
    UserError: the run has several processes, and the model has weight normalization.
  """
  if task.model.norm.weight_norm and jax.process_count() > 1:
    raise UserError(
      "weight normalization is initialized from examples of all clients, and each of several "
      "processes has only those of its clients; drop --num_processes or choose another --norm."
    )
  init_key, batch_key = jax.random.split(stream(jax.random.key(seed), Stream.INIT))
  variables = models.init(task.model, init_key, task.image_shape, traced=False)
  if task.model.norm.weight_norm:
    labels = task.source.train.labels
    rng = np.random.default_rng(np.asarray(jax.random.key_data(batch_key)))
    ids = rng.choice(len(labels), min(batch_size, len(labels)), replace=False)
    images = task.eval_transform(jnp.asarray(task.source.train.images[np.sort(ids)]))
    variables = models.data_init(task.model, variables, images)
  return variables
