"""Algorithms as programs for the loop: their phases, evaluation and initial model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm import comm, models, nodes
from fedjax_norm.algorithms.asgd import AsgdConfig, asgd
from fedjax_norm.algorithms.base import Algorithm, round_cost
from fedjax_norm.algorithms.fedavg import FedAvgConfig, fedavg
from fedjax_norm.algorithms.ssgd import SsgdConfig, ssgd
from fedjax_norm.algorithms.statistics import make_recalibrate
from fedjax_norm.clock import Clock
from fedjax_norm.clock import make as make_clock
from fedjax_norm.control.dial import Dial
from fedjax_norm.control.freeze import CALIBRATE, EXPLORE, Freeze
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.control.travel import make_travel
from fedjax_norm.errors import UserError
from fedjax_norm.keys import Stream, stream
from fedjax_norm.local import LocalConfig, step_bytes
from fedjax_norm.models.flops import training_flops
from fedjax_norm.training.diagnose import DiagnosticsConfig, make_diagnose
from fedjax_norm.training.feed import choose
from fedjax_norm.training.loop import LoopConfig, Outcome, Phase, Program, make_program, train
from fedjax_norm.training.personalise import FineTune, make_personalise
from fedjax_norm.training.run_folder import RunFolder
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.scouting import Scouting
from fedjax_norm.training.task import Task
from fedjax_norm.training.testing import MODELS_EVALUATED, make_evaluate
from fedjax_norm.typing import Variables


@dataclasses.dataclass(frozen=True)
class FreezeConfig:
  """FixBN's second stage (paper 002).

  Attributes:
    round: T*: a round, ``'half'`` of them, or ``'auto'``: once the statistics are at rest, and at
      three quarters of the rounds at the latest.
    rate_factor: multiplies the learning rate after the freeze.
    clip_norm: the greatest norm of a gradient after the freeze, 0 for none; None is 1, or the
      client's own if that is tighter.
    affine: whether gamma and beta freeze too.
    tolerance: of ``'auto'``, in standard deviations (see ``control.Freeze``).
  """

  round: int | str = "half"
  rate_factor: float = 0.2
  clip_norm: float | None = None
  affine: bool = False
  tolerance: float = 0.1

  def __post_init__(self):
    if not self.rate_factor > 0 or not self.tolerance > 0:
      raise UserError("the freeze's rate_factor and tolerance must be positive.")
    if self.clip_norm is not None and not self.clip_norm >= 0:
      raise UserError(f"the freeze's clip_norm is {self.clip_norm}; it must be 0 or more.")

  def policy(self, rounds: int, window: int) -> Freeze:
    """The policy of a run.

    Args:
      rounds: of the run.
      window: rounds between two looks at the statistics, for ``'auto'``.

    Raises:
      UserError: a round outside the run.
    """
    if rounds < 2:
      raise UserError("FixBN needs a round before the freeze and one after; run at least 2 rounds.")
    if self.round == "auto":
      return Freeze(None, max(1, rounds * 3 // 4), self.tolerance, window=window)
    at = rounds // 2 if self.round == "half" else self.round
    if not isinstance(at, int) or not 1 <= at < rounds:
      raise UserError(
        f"the freeze at round {at!r} must lie inside the run: 1 to {rounds - 1}, 'half' or 'auto'."
      )
    return Freeze(at)


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
  clock = clock_of(task, network, config.local.batch_size)
  # No later phase sends more than the first.
  longest = clock.event_seconds(round_cost(task.model, task.image_shape, "mean")).max()

  def build(model: nn.Module, config: AsgdConfig, mapping: nodes.Nodes) -> Algorithm:
    cost = round_cost(model, task.image_shape, config.batch_stats, config.local.frozen_paths)
    events = clock.event_seconds(cost)
    return asgd(model, config, task.transform, task.image_shape, events, longest)

  build(task.model, config, nodes.create("scan", num_nodes=1))  # refuses what it cannot honour
  return assemble(task, config, build, loop, schedule, backend="scan", **options)


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
  policy = None
  if spec.settles:
    freeze = freeze or FreezeConfig()
    steps = int(np.min(phases[EXPLORE].algorithm.local_steps(np.asarray(data.sizes))))
    # After so many local steps a running statistic has forgotten 95% of what it was.
    policy = freeze.policy(loop.rounds, max(1, round(3 / (1 - spec.decay) / steps)))
    phases[CALIBRATE] = phase(
      model.clone(norm=spec.frozen()), _calibrating(task, config, freeze), freeze.rate_factor
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


def _calibrating(task: Task, config: Any, freeze: FreezeConfig) -> Any:
  """The client's settings after the freeze."""
  local = config.local
  clip = min(1.0, local.clip_norm or 1.0) if freeze.clip_norm is None else freeze.clip_norm
  local = dataclasses.replace(local, clip_norm=clip)
  if freeze.affine:
    layers = models.norm_modules(task.model, task.image_shape)
    frozen = frozenset(f"{layer}/{name}" for layer in layers for name in ("scale", "bias"))
    local = dataclasses.replace(local, frozen_paths=frozen)
  return dataclasses.replace(config, local=local)


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
    **options: further ones of ``make``.
  """
  program = make(task, config, loop, schedule, **options)
  variables = initial_variables(task, loop.seed)
  return train(program, loop, task.data, variables, folder, show_progress)


run_fedavg = functools.partial(run, make_fedavg)
run_ssgd = functools.partial(run, make_ssgd)
run_asgd = functools.partial(run, make_asgd)
