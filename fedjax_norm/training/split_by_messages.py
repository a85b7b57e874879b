"""Split learning by separately compiled parties that exchange messages (``--step_by_step``)."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fedjax_norm.algorithms.contract import Method
from fedjax_norm.errors import UserError
from fedjax_norm.split.algorithm import rules_for_data
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.split.by_messages.training import Observe, make_interval
from fedjax_norm.split.messages import Message
from fedjax_norm.split.state import ServerState
from fedjax_norm.training.build_program import images_of, make_program
from fedjax_norm.training.program_types import Phase, Program
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.task.task import Task


def make_message_program(
  method: Method, task: Task, config: Any, observe: Observe | None = None
) -> Program:
  """Returns a training program of separately compiled parties that exchange messages.

  Args:
    method: split learning or a SplitFed variant.
    task: the data and the model.
    config: the options of the run.
    observe: callback that receives every message; the program also counts all messages.

  Raises:
    UserError: the option batch_stats is ``recalibrate``, for which there are no messages.
  """
  if config.batch_stats == "recalibrate":
    raise UserError(
      "--step_by_step has no messages for --batch_stats=recalibrate, which recomputes the running "
      "statistics; drop --step_by_step or choose another --batch_stats."
    )
  program = make_program(dataclasses.replace(method, sequential=lambda config: True), task, config)
  log = MessageLog()

  def report(message: Message) -> None:
    log.observe(message)
    if observe:
      observe(message)

  def make_phase_interval(phase: Phase) -> Callable[..., Any]:
    rules = rules_for_data(phase.model, phase.config, images_of(task), task.data, config.seed)

    def start(seed: int) -> ServerState:
      return rules.init(initial_variables(task, seed))

    interval = make_interval(rules, phase.config, task.transform, config.seed, start, report)

    def logged_interval(*arguments: Any) -> Any:
      first, begin = arguments[6:8]  # see ``rounds.compile_interval``
      log.begin(int(first) + int(begin))
      return interval(*arguments)

    return logged_interval

  intervals = {name: make_phase_interval(phase) for name, phase in program.phases.items()}
  return program._replace(intervals=intervals, messages=log)
