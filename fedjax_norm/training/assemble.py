"""An algorithm on a task as a program for the loop: phases, mapping, evaluation, controls."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from fedjax_norm import comm, memory, models, nodes
from fedjax_norm.algorithms.base import Algorithm
from fedjax_norm.algorithms.statistics import make_recalibrate
from fedjax_norm.clock import Clock
from fedjax_norm.clock import make as make_clock
from fedjax_norm.control.dial import Dial
from fedjax_norm.control.freeze import CALIBRATE, EXPLORE
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.control.travel import make_travel
from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalConfig, step_bytes
from fedjax_norm.models.flops import training_flops
from fedjax_norm.models.own import check_statistics
from fedjax_norm.training.diagnose import DiagnosticsConfig, make_diagnose
from fedjax_norm.training.feed import choose
from fedjax_norm.training.freezing import FreezeConfig, calibrating
from fedjax_norm.training.loop_config import LoopConfig
from fedjax_norm.training.personalise import FineTune, make_personalise
from fedjax_norm.training.program import Phase, Program, make_program
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.scouting import Scouting
from fedjax_norm.training.task import Task
from fedjax_norm.training.testing import MODELS_EVALUATED, make_evaluate


def clock_of(task: Task, network: str, batches: int | np.ndarray) -> Clock:
  """The simulated clock of a task's clients, whose steps have so many examples."""
  step_flops = training_flops(task.model, task.image_shape) * batches
  return make_clock(network, task.data.num_clients, step_flops)


def take_all(task: Task, loop: LoopConfig, name: str) -> None:
  """Refuses a cohort for an algorithm in whose rounds everyone takes part.

  Raises:
    UserError: a cohort smaller than the population.
  """
  if loop.cohort_of(task.data.num_clients) != task.data.num_clients:
    raise UserError(f"every worker takes part in each step of {name}; drop the cohort.")


def assemble(
  task: Task,
  config: Any,
  build: Callable[[nn.Module, Any, nodes.Nodes], Algorithm],
  loop: LoopConfig,
  schedule: Schedule,
  *,
  freeze: FreezeConfig | None = None,
  plateau: Plateau | None = None,
  clock: Clock | None = None,
  step_examples: int | np.ndarray | None = None,
  backend: str = "auto",
  chunk: int | None = None,
  eval_batch_size: int = 256,
  evaluate_clients: int = 0,
  data_on: str = "auto",
  diagnostics: DiagnosticsConfig | None = None,
  fine_tune: FineTune | None = None,
  dial: Dial | None = None,
  travel_examples: int = 256,
  refresh_cost: comm.Cost | None = None,
) -> Program:
  """An algorithm on a task: its phases, its mapping and its evaluation.

  Args:
    task: the federation and the model.
    config: the algorithm's, with a ``local`` and a policy for ``batch_stats``.
    build: (model, config, mapping) -> the algorithm.
    loop: the run's length.
    schedule: the learning rate.
    freeze: FixBN's second stage; its defaults when None and the norm is FixBN.
    plateau: lowers the rate when the training loss stops falling; None leaves the schedule alone.
    clock: a simulated clock, for the algorithms that have none of their own.
    step_examples: of a step of each client as the clock counts it; None is the batch size.
    backend: how clients are mapped (see ``nodes.create``).
    chunk: how many clients of a device run at once.
    eval_batch_size: test examples a batch.
    evaluate_clients: how many clients are evaluated on their own mix of labels (and features); 0
      for none. Where clients keep a part of the model, it is also how many of their models the test
      accuracy is the mean of, among those that have taken part (10 for 0).
    data_on: where the training data stays (see ``feed.choose``); it changes no result.
    diagnostics: what is measured of the clients' differences at evaluations; None is nothing.
    fine_tune: what the clients that are evaluated (10 for 0) do with the model first, beside what
      it is without; None is nothing.
    dial: what sets theta, and SkewScout with it; None for algorithms without.
    travel_examples: the sample of a client's training data that SkewScout tests a model on.
    refresh_cost: of recomputing running statistics, for clients that do not hold the whole model; a
      step of it is an example.

  Raises:
    UserError: options that do not fit together.
  """
  model, data = task.model, task.data
  check_statistics(model, task.image_shape)
  if config.local.objective != task.objective:
    raise UserError(
      f"the task is {task.objective} and the clients train for {config.local.objective}; give "
      "their LocalConfig the task's objective."
    )
  spec = model.norm
  if freeze and not spec.settles:
    raise UserError(f"a freeze belongs to norm 'fixbn', not to {spec.name!r}; drop it.")
  if not 0 <= evaluate_clients <= data.num_clients:
    raise UserError(
      f"evaluate_clients is {evaluate_clients}; it must lie between 0 and the {data.num_clients} "
      "clients."
    )
  if eval_batch_size < 1:
    raise UserError(f"eval_batch_size is {eval_batch_size}; it must be at least 1.")
  memory.check_batch(config.local.batch_size, task.image_shape)
  mapping = nodes.create(
    backend,
    num_nodes=loop.cohort_of(data.num_clients),
    chunk=chunk,
    lockstep=spec.across_nodes,
    node_bytes=lambda: step_bytes(model, config.local, images_of(task)),
  )
  one_by_one = mapping.one_by_one()

  refresh = None
  if config.batch_stats == "recalibrate" and spec.updates_running_statistics:
    refresh = make_recalibrate(model, one_by_one, config.local.batch_size, task.plain_transform)
    variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), task.image_shape))
    # Count, mean and m2 of every channel come back.
    norms = models.norm_modules(model, task.image_shape)
    refresh_cost = refresh_cost or comm.Cost(
      4 * sum(2 * channels + 1 for channels in norms.values()), comm.model_bytes(variables)
    )
  # Of the three parts of a step, forward and two gradients, a pass over the data has one.
  at_once = config.local.batch_size if step_examples is None else step_examples
  refresh_steps = np.asarray(data.sizes) / at_once / 3

  trained: dict[Algorithm, tuple[nn.Module, LocalConfig]] = {}

  def phase(model, config, rate_factor=1.0, refresh=None) -> Phase:
    algorithm = build(model, config, mapping)
    trained[algorithm] = model, config.local
    return Phase(algorithm, rate_factor, refresh, refresh_cost or comm.Cost(0, 0), refresh_steps)

  phases = {EXPLORE: phase(model, config, refresh=refresh)}
  sizes = np.asarray(data.sizes, np.int64)
  steps = np.asarray(phases[EXPLORE].algorithm.local_steps(sizes), np.int64)
  # Of asynchronous SGD one client takes part in a round.
  batches = np.minimum(sizes, config.local.batch_size)
  loop.check_counts(steps, steps * (batches if len(steps) > 1 else batches.max()))
  policy = None
  if spec.settles:
    freeze = freeze or FreezeConfig()
    # After so many local steps a running statistic has forgotten 95% of what it was.
    policy = freeze.policy(loop.rounds, max(1, round(3 / (1 - spec.decay) / int(steps.min()))))
    phases[CALIBRATE] = phase(
      model.clone(norm=spec.frozen()), calibrating(task, config, freeze), freeze.freeze_lr_factor
    )
  personalise = None
  if fine_tune:
    personalise = make_personalise(task, trained, fine_tune, one_by_one)
    evaluate_clients = evaluate_clients or min(MODELS_EVALUATED, data.num_clients)
  evaluate = make_evaluate(task, one_by_one, eval_batch_size, evaluate_clients, personalise)
  on = choose(data_on, data, mapping)
  rates = schedule.rates(loop.rounds)
  diagnose = None
  if diagnostics:
    frozen = {CALIBRATE: model.clone(norm=spec.frozen())} if spec.settles else {}
    diagnose = make_diagnose(
      task,
      {EXPLORE: model, **frozen},
      diagnostics,
      batch_size=config.local.batch_size,
      eval_batch_size=eval_batch_size,
      mapping=one_by_one,
    )
  scouting = None
  if dial and dial.scout:
    if data.num_clients < 2:
      raise UserError("SkewScout lets models travel between clients, and there is one; take more.")
    if travel_examples < 1:
      raise UserError(f"SkewScout tests on {travel_examples} examples; it must be at least 1.")
    scouting = Scouting(
      dial.scout,
      {
        name: make_travel(
          model,
          phase.algorithm,
          one_by_one,
          task.plain_transform,
          travel_examples,
          task.objective,
        )
        for name, phase in phases.items()
      },
    )
  return make_program(
    phases,
    mapping,
    evaluate,
    rates,
    policy,
    on,
    plateau,
    clock,
    diagnose,
    dial,
    scouting,
    task.objective,
  )


def images_of(task: Task) -> jax.ShapeDtypeStruct:
  """The shape of an image and the dtype that it comes to the model in."""
  stored = task.source.train.images[:1]
  batch = jax.eval_shape(task.eval_transform, jax.ShapeDtypeStruct(stored.shape, stored.dtype))
  return jax.ShapeDtypeStruct(task.image_shape, batch.dtype)
