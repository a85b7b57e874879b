"""A method on a task as a program for the loop, and a run of it in one call."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm import host_memory, models, nodes, trees
from fedjax_norm.algorithms import ledger
from fedjax_norm.algorithms.averaging import build
from fedjax_norm.algorithms.batch_statistics import make_recalibrate
from fedjax_norm.algorithms.clock import Clock
from fedjax_norm.algorithms.clock import make as make_clock
from fedjax_norm.algorithms.contract import Algorithm, Method, Setup
from fedjax_norm.algorithms.registry import find
from fedjax_norm.control.freeze import CALIBRATE, EXPLORE
from fedjax_norm.control.model_traveling import make_travel
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import UserError, expect
from fedjax_norm.local import LocalConfig, step_bytes
from fedjax_norm.models.flops import training_flops
from fedjax_norm.models.own_module import check_statistics
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import make, of
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.training.config.freeze import FreezeConfig, calibrating
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.diagnostics_recorder import make_diagnose
from fedjax_norm.training.evaluator import MODELS_EVALUATED, make_evaluate
from fedjax_norm.training.loop import Callback, train
from fedjax_norm.training.outcome import Outcome
from fedjax_norm.training.personalization import make_personalise
from fedjax_norm.training.placement.data_feed import choose
from fedjax_norm.training.program import Phase, Program, make_interval
from fedjax_norm.training.skewscout import Scouting, make_dial
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
  """Trains a task by a method.

  Args:
    method: its name in the registry, or a row of the user's own.
    task: the federation and the model.
    *groups: configurations of some of the options, such as ``LoopConfig(rounds=10, eval_every=5)``.
    folder: where metrics and checkpoints go; None writes nothing.
    show_progress: whether to draw a progress bar.
    on_evaluation: called after each evaluation (see ``loop.train``).
    **options: further options by their names, as on the command line: ``rounds=10, lr=0.05``.

  Raises:
    UserError: an argument of a wrong type, or options that do not fit together.
  """
  expect("task", task, Task)
  expect("folder", folder, RunFolder | None)
  method = find(method) if isinstance(method, str) else method
  config = in_force(method, task, make(config_of(method), *groups, **options))
  program = make_program(method, task, config)
  variables = initial_variables(task, config.seed)
  return train(program, config, task.data, variables, folder, show_progress, on_evaluation)


def make_program(method: Method | str, task: Task, config: Any) -> Program:
  """A method on a task: its phases, its mapping, its evaluation and what controls it.

  Args:
    method: a row of the registry, or its name.
    task: the federation and the model.
    config: the options, of :func:`config_of` or a class that inherits from the same groups.

  Raises:
    UserError: options that do not fit together.
  """
  method = find(method) if isinstance(method, str) else method
  model, data = task.model, task.data
  check_statistics(model, task.image_shape)
  spec = model.norm
  config = in_force(method, task, config)
  _check(method, task, config)
  dial = make_dial(config, method, config.rounds)
  mapping = nodes.create(
    "scan" if method.one_by_one(config) else config.backend,
    num_nodes=config.cohort_of(data.num_clients),
    chunk=config.chunk,
    lockstep=spec.across_nodes and not method.one_by_one(config),
    node_bytes=lambda: step_bytes(model, config, images_of(task)),
  )
  one_by_one = mapping.one_by_one()
  setup = Setup(model, mapping, data, task.transform, images_of(task), config.seed)
  if config.network is not None:
    setup = setup._replace(clock=_clock(method, task, config, setup))

  def phase(spec: NormSpec, config: Any, **more: Any) -> Phase:
    of_phase = model.clone(norm=spec)
    return Phase(build(method, config, setup._replace(model=of_phase)), of_phase, config, **more)

  phases = {EXPLORE: phase(spec, config)}
  first = phases[EXPLORE].algorithm
  if config.policy(spec) == "recalibrate" and spec.updates_running_statistics:
    # Of the three parts of a step, forward and two gradients, a pass over the data has one.
    sizes = np.asarray(data.sizes)
    phases[EXPLORE] = phases[EXPLORE]._replace(
      refresh=make_recalibrate(model, one_by_one, config.batch_size, task.plain_transform),
      refresh_cost=first.pass_cost or _pass_cost(task),
      refresh_steps=sizes / config.step_examples(sizes) / 3,
    )
  _check_counts(config, data, first)
  policy = None
  if spec.settles:
    # After so many local steps a running statistic has forgotten 95% of what it was.
    steps = int(np.min(first.local_steps(np.asarray(data.sizes))))
    policy = config.freeze(config.rounds, max(1, round(3 / (1 - spec.decay) / steps)))
    later = calibrating(task, config)
    phases[CALIBRATE] = phase(spec.frozen(), later, rate_factor=config.freeze_lr_factor)

  evaluated, personalise = config.evaluate_clients, None
  if config.fine_tune_steps is not None:
    trained = {phase.algorithm: (phase.model, phase.config) for phase in phases.values()}
    personalise = make_personalise(
      task, trained, config.fine_tune_steps, config.fine_tune_lr or config.lr, one_by_one
    )
    evaluated = evaluated or min(MODELS_EVALUATED, data.num_clients)
  diagnose = None
  if config.diagnostics:
    phase_models = {name: phase.model for name, phase in phases.items()}
    diagnose = make_diagnose(task, phase_models, config, config.batch_size, one_by_one)
  scouting = None
  if dial and dial.scout:
    travels = {
      name: make_travel(
        model,
        phase.algorithm,
        one_by_one,
        task.plain_transform,
        config.scout_examples,
        task.objective,
      )
      for name, phase in phases.items()
    }
    scouting = Scouting(dial.scout, travels)
  return Program(
    phases,
    mapping,
    make_evaluate(task, one_by_one, config.eval_batch_size, evaluated, personalise),
    policy,
    config.plateau(),
    None if first.pace == "events" else setup.clock,
    config.rates(config.rounds),
    choose(config.data_on, data, mapping),
    {name: make_interval(phase.algorithm, mapping) for name, phase in phases.items()},
    diagnose,
    dial,
    scouting,
    task.objective,
  )


def in_force(method: Method, task: Task, config: Any) -> Any:
  """The options with the values that follow from the task; a second time changes nothing."""
  config = config.resolve(config.round_examples(task.data.num_clients), len(task.data.order))
  everyone = config.cohort_of(task.data.num_clients) == task.data.num_clients
  if method.all_clients and not everyone:
    raise UserError(f"every client takes part in each round of {method.name}; drop the cohort.")
  if config.objective not in (LocalConfig.objective, task.objective):
    raise UserError(
      f"the objective of the task is {task.objective!r}, which the clients train for too; drop the "
      "other one or give it to make_task."
    )
  config = config.in_force(task.model.norm, everyone)
  cohort = config.cohort_of(task.data.num_clients)
  return dataclasses.replace(config, objective=task.objective, cohort=cohort)


def images_of(task: Task) -> jax.ShapeDtypeStruct:
  """The shape of an image and the dtype that it comes to the model in."""
  stored = task.source.train.images[:1]
  batch = jax.eval_shape(task.eval_transform, jax.ShapeDtypeStruct(stored.shape, stored.dtype))
  return jax.ShapeDtypeStruct(task.image_shape, batch.dtype)


def check_mapping(method: Method, config: Any) -> None:
  """Refuses a mapping for a method whose clients run one after another.

  Raises:
    UserError: such a mapping.
  """
  chosen = config.backend not in ("auto", "scan") or config.chunk is not None
  if chosen and method.one_by_one(config):
    raise UserError(
      f"the clients of {method.name} run one after another; drop --backend={config.backend} and "
      "--chunk."
    )


def _check(method: Method, task: Task, config: Any) -> None:
  """Refuses what a method or a task cannot do."""
  spec, count = task.model.norm, task.data.num_clients
  if method.one_process and jax.process_count() > 1:
    raise UserError(f"{method.name} is simulated in one process; drop --num_processes.")
  check_mapping(method, config)
  if not 0 <= config.evaluate_clients <= count:
    raise UserError(
      f"evaluate_clients is {config.evaluate_clients}; it must lie between 0 and the {count} "
      "clients."
    )
  if method.theta and config.skewscout != "off" and count < 2:
    raise UserError("SkewScout lets models travel between clients, and there is one; take more.")
  changed = [one for one in of(FreezeConfig) if getattr(config, one.name) != one.default]
  if changed and not spec.settles:
    raise UserError(f"a freeze belongs to norm 'fixbn', not to {spec.name!r}; drop it.")
  known = trees.flatten(ledger.model_shapes(task.model, task.image_shape)["params"])
  if lost := sorted(config.frozen_paths - known.keys()):
    raise UserError(f"the model has no parameter {lost[0]!r} to freeze; it has {', '.join(known)}.")
  host_memory.check_batch(config.batch_size, task.image_shape)


def _check_counts(config: Any, data: FederatedData, algorithm: Algorithm) -> None:
  """Refuses numbers that programs cannot count."""
  sizes = np.asarray(data.sizes, np.int64)
  steps = np.asarray(algorithm.local_steps(sizes), np.int64)
  # Of asynchronous SGD one client takes part in a round.
  batches = np.minimum(sizes, config.batch_size)
  config.check_counts(steps, steps * (batches if len(steps) > 1 else batches.max()))
  heard = config.cohort_of(data.num_clients)
  if algorithm.sent and heard >= ledger.MOST_SENDERS:
    raise UserError(
      f"the ledger of updates counts fewer than {ledger.MOST_SENDERS:,} clients a round, and there "
      f"are {heard:,}; take fewer --clients or a smaller --cohort."
    )


def _clock(method: Method, task: Task, config: Any, setup: Setup) -> Clock:
  """The simulated clock of a task's clients."""
  if method.step_flops:
    step_flops = method.step_flops(config, setup)
  else:
    examples = config.step_examples(np.asarray(task.data.sizes))
    step_flops = training_flops(task.model, task.image_shape) * examples
  return make_clock(config.network, task.data.num_clients, step_flops)


def _pass_cost(task: Task) -> ledger.Cost:
  """Of recomputing statistics: the model down; the moments of every norm up."""
  norms = models.norm_modules(task.model, task.image_shape)
  params = ledger.model_shapes(task.model, task.image_shape)["params"]
  return ledger.Cost(
    4 * sum(2 * channels + 1 for channels in norms.values()), trees.num_bytes(params)
  )


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
