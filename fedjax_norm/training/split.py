"""Split learning as a program for the loop."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from fedjax_norm import nodes
from fedjax_norm.algorithms.base import Algorithm
from fedjax_norm.algorithms.split import split
from fedjax_norm.algorithms.split_config import SplitConfig
from fedjax_norm.algorithms.split_rules import Rules, make_rules
from fedjax_norm.clock import make as make_clock
from fedjax_norm.comm import MOST_SENDERS
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged
from fedjax_norm.split.messages import Message
from fedjax_norm.training.assemble import assemble, images_of
from fedjax_norm.training.exchange import Observe, make_interval
from fedjax_norm.training.loop_config import LoopConfig
from fedjax_norm.training.message_log import MessageLog
from fedjax_norm.training.program import Program
from fedjax_norm.training.programs import initial_variables, run
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.task import Task

# Places among an interval's arguments (see ``program.make_interval``).
_FIRST, _BEGIN = 6, 7


def make_split(
  task: Task,
  config: SplitConfig,
  loop: LoopConfig,
  schedule: Schedule,
  *,
  step_by_step: bool = False,
  observe: Observe | None = None,
  backend: str = "auto",
  network: str | None = None,
  **options: Any,
) -> Program:
  """Split learning on a task, its clients being the Alices.

  Args:
    task: the federation and the model.
    config: the algorithm.
    loop: the run's length and seed.
    schedule: the learning rate of all parties.
    step_by_step: whether parties are compiled one by one and exchange messages, in place of one
      program for an interval.
    observe: sees the messages of ``step_by_step``, beside the program's log.
    backend: how the clients of ``splitfed_v1`` are mapped; those in turns run one after another.
    network: the profile of a simulated clock (see ``clock.make``), whose nodes are the clients; the
      work of the other parties takes no time. None tells no simulated time.
    **options: of ``assemble.assemble``.

  Raises:
    UserError: options that do not fit together.
  """
  if jax.process_count() > 1:
    raise UserError("split learning is simulated in one process; drop --num_processes.")
  if not isinstance(task.model, Staged):
    raise UserError("this model is not a sequence of stages, so it cannot be cut; choose another.")
  if loop.cohort_of(task.data.num_clients) >= MOST_SENDERS:
    raise UserError(
      f"the ledger counts fewer than {MOST_SENDERS:,} clients a round; draw a smaller cohort."
    )
  if step_by_step and config.batch_stats == "recalibrate":
    raise UserError(
      "the pass that recomputes statistics is no exchange of messages; drop step_by_step or "
      "batch_stats=recalibrate."
    )
  one_by_one = config.in_turns or step_by_step
  if one_by_one and backend not in ("auto", "scan"):
    raise UserError(
      f"clients that take turns run one after another; drop backend={backend} or use scan."
    )
  targets = np.asarray(task.data.targets)
  label = jax.ShapeDtypeStruct(targets.shape[1:], targets.dtype)
  rules_of: dict[Algorithm, tuple[Rules, SplitConfig]] = {}

  def build(model: nn.Module, config: SplitConfig, mapping: nodes.Nodes) -> Algorithm:
    assert isinstance(model, Staged)
    rules = make_rules(model, config, images_of(task), label, loop.seed)
    algorithm = split(rules, config, mapping, task.transform)
    rules_of[algorithm] = rules, config
    return algorithm

  whole = make_rules(task.model, config, images_of(task), label, loop.seed)
  clock = None
  if network:
    effort = whole.effort()
    step_flops = config.local.batch_size * (effort.client + effort.client_crossing)
    clock = make_clock(network, task.data.num_clients, step_flops)
  program = assemble(
    task,
    config,
    build,
    loop,
    schedule,
    clock=clock,
    backend="scan" if one_by_one else backend,
    refresh_cost=whole.pass_cost,
    **options,
  )
  if not step_by_step:
    return program

  def by_messages(algorithm: Algorithm) -> Callable[..., Any]:
    rules, config = rules_of[algorithm]

    def start(seed: int):
      return rules.init(initial_variables(task, seed))

    interval = make_interval(rules, config, task.transform, loop.seed, start, told)

    def counted(*arguments):
      log.begin(int(arguments[_FIRST]) + int(arguments[_BEGIN]))
      return interval(*arguments)

    return counted

  log = MessageLog()

  def told(message: Message) -> None:
    log.observe(message)
    if observe:
      observe(message)

  intervals = {name: by_messages(phase.algorithm) for name, phase in program.phases.items()}
  return program._replace(intervals=intervals, messages=log)


run_split = functools.partial(run, make_split)
