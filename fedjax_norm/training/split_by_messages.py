"""Split learning step by step: every party is compiled by itself, and each message is an object."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fedjax_norm.algorithms.contract import Method
from fedjax_norm.errors import UserError
from fedjax_norm.split.algorithm import rules_for_data
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.split.by_messages.training import Observe, make_interval
from fedjax_norm.split.messages import Message
from fedjax_norm.training.build_program import images_of, make_program
from fedjax_norm.training.program_types import Phase, Program
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.task.task import Task

# Places among an interval's arguments (see ``program.compile_interval``).
_FIRST, _BEGIN = 6, 7


def make_message_program(
  method: Method, task: Task, config: Any, observe: Observe | None = None
) -> Program:
  """Split learning as a program whose parties exchange messages, in place of one for an interval.

  Args:
    method: a variant of split learning.
    task: the federation and the model.
    config: the options (see ``programs.config_of``).
    observe: sees the messages, beside the program's log.

  Raises:
    UserError: options that do not fit together.
  """
  if config.batch_stats == "recalibrate":
    raise UserError(
      "the pass that recomputes statistics is no exchange of messages; drop step_by_step or "
      "batch_stats=recalibrate."
    )
  program = make_program(dataclasses.replace(method, one_by_one=lambda config: True), task, config)
  log = MessageLog()

  def told(message: Message) -> None:
    log.observe(message)
    if observe:
      observe(message)

  def interval_of(phase: Phase) -> Callable[..., Any]:
    rules = rules_for_data(phase.model, phase.config, images_of(task), task.data, config.seed)

    def start(seed: int):
      return rules.init(initial_variables(task, seed))

    interval = make_interval(rules, phase.config, task.transform, config.seed, start, told)

    def counted(*arguments):
      log.begin(int(arguments[_FIRST]) + int(arguments[_BEGIN]))
      return interval(*arguments)

    return counted

  intervals = {name: interval_of(phase) for name, phase in program.phases.items()}
  return program._replace(intervals=intervals, messages=log)
