"""Builds the program of a run: all that the training loop needs to train a method on a task."""

import dataclasses
from typing import Any, get_args

import jax
import numpy as np

from fedjax_norm import client_mapping, host_memory, models, tree_leaves
from fedjax_norm.algorithms.averaging import build
from fedjax_norm.algorithms.batch_statistics import make_recalibrate
from fedjax_norm.algorithms.contract import Method, Setup
from fedjax_norm.algorithms.costs import clock, ledger
from fedjax_norm.algorithms.costs.clock import Pace
from fedjax_norm.algorithms.registry import find
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.control.freeze import CALIBRATE, EXPLORE
from fedjax_norm.control.model_traveling import make_model_traveling
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig, step_bytes
from fedjax_norm.models.flops import training_flops
from fedjax_norm.models.user_module import check_statistics
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import of
from fedjax_norm.training.config.freeze_options import FreezeConfig, calibration_config
from fedjax_norm.training.diagnostics_recorder import make_diagnose
from fedjax_norm.training.evaluator import MODELS_EVALUATED, make_evaluate
from fedjax_norm.training.personalization import make_personalize
from fedjax_norm.training.placement.data_feed import choose_data_location
from fedjax_norm.training.program_types import Phase, Program
from fedjax_norm.training.rounds import compile_interval
from fedjax_norm.training.skewscout_run import SkewScoutRun, make_theta_schedule
from fedjax_norm.training.task.task import Task


def make_program(method: Method | str, task: Task, config: Any) -> Program:
  """Builds the program that trains a method on a task.

  ``config`` is an instance of ``config_of(method)`` or of a class with the same options.

  Raises:
    UserError: options contradict each other, or the method or the task does not support one.
  """
  method = find(method) if isinstance(method, str) else method
  model, data = task.model, task.data
  check_statistics(model, task.image_shape)
  spec = model.norm
  config = fill_defaults(method, task, config)
  _check(method, task, config)
  theta_schedule = make_theta_schedule(config, method, config.rounds)
  local_steps = config.steps(np.asarray(data.sizes))
  unequal_steps = local_steps if np.ptp(local_steps) else None
  mapping = client_mapping.create(
    "scan" if method.sequential(config) else config.backend,
    num_clients=config.cohort_of(data.num_clients),
    chunk=config.chunk,
    lockstep=spec.across_clients and not method.sequential(config),
    client_bytes=lambda: client_bytes(task, config),
    steps=unequal_steps,
  )
  one_by_one = mapping.one_by_one()
  setup = Setup(model, mapping, data, task.transform, images_of(task), config.seed)
  if config.network is not None:
    setup = setup._replace(clock=_clock(method, task, config, setup))

  def phase(spec: NormSpec, config: Any, **more: Any) -> Phase:
    phase_model = model.clone(norm=spec)
    algorithm = build(method, config, setup._replace(model=phase_model))
    return Phase(algorithm, phase_model, config, **more)

  phases = {EXPLORE: phase(spec, config)}
  first = phases[EXPLORE].algorithm
  if first.pace not in get_args(Pace):
    paces = ", ".join(get_args(Pace))
    raise UserError(f"method {method.name!r} has the pace {first.pace!r}; choose one of {paces}.")
  if config.statistics_policy(spec) == "recalibrate" and spec.updates_running_statistics:
    # Recalibration runs the forward pass only, about a third of the time of a training step.
    sizes = np.asarray(data.sizes)
    phases[EXPLORE] = phases[EXPLORE]._replace(
      recalibrate=make_recalibrate(model, one_by_one, config.batch_size, task.plain_transform),
      recalibrate_cost=first.pass_cost or _pass_cost(task),
      recalibrate_steps=sizes / config.step_examples(sizes) / 3,
    )
  _check_counts(config, data, first)
  if task.unseen is not None and first.views.client and not first.views.evaluate_global:
    raise UserError(
      f"each client of {method.name} with these options has a model of its own, so there is no "
      "model for a client that never trained; drop --unseen_clients."
    )
  policy = None
  if spec.freezes_statistics:
    # After 3 / (1 - decay) local steps, 95% of a running statistic comes from new batches.
    steps = int(np.min(first.local_steps(np.asarray(data.sizes))))
    policy = config.freeze(config.rounds, max(1, round(3 / (1 - spec.decay) / steps)))
    later = calibration_config(task, config)
    phases[CALIBRATE] = phase(spec.frozen(), later, rate_factor=config.freeze_lr_factor)

  evaluated, personalize = config.evaluate_clients, None
  if config.fine_tune_steps is not None:
    trained = {phase.algorithm: (phase.model, phase.config) for phase in phases.values()}
    personalize = make_personalize(
      task, trained, config.fine_tune_steps, config.fine_tune_lr or config.lr, one_by_one
    )
    evaluated = evaluated or min(MODELS_EVALUATED, data.num_clients)
  diagnose = skewscout = None
  if config.diagnostics:
    phase_models = {name: phase.model for name, phase in phases.items()}
    diagnose = make_diagnose(task, phase_models, config, config.batch_size, one_by_one)
  if theta_schedule and theta_schedule.scout:
    shared = (one_by_one, task.plain_transform, config.scout_examples, task.objective)
    model_traveling = {
      name: make_model_traveling(model, phase.algorithm, *shared) for name, phase in phases.items()
    }
    skewscout = SkewScoutRun(theta_schedule.scout, model_traveling)
  return Program(
    phases,
    mapping,
    make_evaluate(task, one_by_one, config.eval_batch_size, evaluated, personalize),
    policy,
    config.plateau(),
    None if first.pace == "asynchronous" else setup.clock,
    config.rates(config.rounds),
    choose_data_location(config.data_on, data, mapping),
    {name: compile_interval(phase.algorithm, mapping) for name, phase in phases.items()},
    diagnose,
    theta_schedule,
    skewscout,
    task.objective,
    unequal_steps=unequal_steps,
  )


def fill_defaults(method: Method, task: Task, config: Any) -> Any:
  """Returns ``config``, in which values that follow from the task replace unset options.

  A second call changes nothing.

  Raises:
    UserError: ``config`` has a cohort although the method trains all clients in every round, or
      another objective than the task.
  """
  config = config.resolve(config.round_examples(task.data.num_clients), len(task.data.order))
  everyone = config.cohort_of(task.data.num_clients) == task.data.num_clients
  if method.all_clients and not everyone:
    raise UserError(f"every client takes part in each round of {method.name}; drop --cohort.")
  if config.objective not in (LocalConfig.objective, task.objective):
    raise UserError(
      f"clients train for the task's objective, {task.objective!r}; drop the option objective, or "
      "pass it to make_task instead."
    )
  config = config.fill_defaults(task.model.norm, everyone)
  cohort = config.cohort_of(task.data.num_clients)
  return dataclasses.replace(config, objective=task.objective, cohort=cohort)


def images_of(task: Task) -> jax.ShapeDtypeStruct:
  """Returns the shape and the dtype of one input image of the model."""
  stored = task.source.train.images[:1]
  batch = jax.eval_shape(task.eval_transform, jax.ShapeDtypeStruct(stored.shape, stored.dtype))
  return jax.ShapeDtypeStruct(task.image_shape, batch.dtype)


def client_bytes(task: Task, config: Any) -> int:
  """Returns the bytes of device memory that a step of the client with the largest batch needs."""
  batch_sizes = config.step_examples(np.asarray(task.data.sizes))
  return step_bytes(task.model, config, images_of(task), int(batch_sizes.max()))


def check_mapping(method: Method, config: Any) -> None:
  """Raises a UserError if ``backend`` or ``chunk`` is given and the clients run sequentially."""
  chosen = config.backend not in ("auto", "scan") or config.chunk is not None
  if chosen and method.sequential(config):
    raise UserError(
      f"the clients of {method.name} run sequentially; drop --backend={config.backend} and --chunk."
    )


def _check(method: Method, task: Task, config: Any) -> None:
  """Raises a UserError if the method or the task does not support an option."""
  spec, count = task.model.norm, task.data.num_clients
  if method.one_process and jax.process_count() > 1:
    raise UserError(f"{method.name} is simulated in one process; drop --num_processes.")
  check_mapping(method, config)
  if not 0 <= config.evaluate_clients <= count:
    raise UserError(
      f"--evaluate_clients is {config.evaluate_clients}; give at most {count}, all clients."
    )
  if method.theta and config.skewscout != "off" and count < 2:
    raise UserError("SkewScout tests models on other clients; drop --skewscout or raise --clients.")
  changed = [one for one in of(FreezeConfig) if getattr(config, one.name) != one.default]
  if changed and not spec.freezes_statistics:
    raise UserError(
      f"--{changed[0].name} has no effect on the norm {spec.name!r}; drop it, or use --norm=fixbn."
    )
  known = tree_leaves.flatten(ledger.model_shapes(task.model, task.image_shape)["params"])
  if unknown := sorted(config.frozen_paths - known.keys()):
    raise UserError(
      f"the model has no parameter {unknown[0]!r} to freeze; choose among {', '.join(known)}."
    )
  host_memory.check_batch(config.batch_size, task.image_shape)


def _check_counts(config: Any, data: FederatedData, algorithm: Algorithm) -> None:
  """Raises a UserError if the int32 counters of a run would overflow."""
  sizes = np.asarray(data.sizes, np.int64)
  steps = np.asarray(algorithm.local_steps(sizes), np.int64)
  # In a round of asynchronous SGD, one client takes part.
  batches = np.minimum(sizes, config.batch_size)
  config.check_counts(steps, steps * (batches if len(steps) > 1 else batches.max()))
  cohort = config.cohort_of(data.num_clients)
  if algorithm.sent and cohort >= ledger.MAX_SENDERS:
    raise UserError(
      f"update bytes can be counted for fewer than {ledger.MAX_SENDERS:,} clients per round, "
      f"not for {cohort:,}; lower --clients or --cohort."
    )


def _clock(method: Method, task: Task, config: Any, setup: Setup) -> clock.Clock:
  """Returns the clock that simulates the time of computation and of messages in a network."""
  if method.step_flops:
    step_flops = method.step_flops(config, setup)
  else:
    examples = config.step_examples(np.asarray(task.data.sizes))
    step_flops = training_flops(task.model, task.image_shape) * examples
  return clock.make(config.network, task.data.num_clients, step_flops)


def _pass_cost(task: Task) -> ledger.Cost:
  """Returns a client's traffic of recalibration: the model down, the moments of every norm up."""
  norms = models.norm_modules(task.model, task.image_shape)
  params = ledger.model_shapes(task.model, task.image_shape)["params"]
  up = 4 * sum(2 * channels + 1 for channels in norms.values())
  return ledger.Cost(up, tree_leaves.num_bytes(params))
