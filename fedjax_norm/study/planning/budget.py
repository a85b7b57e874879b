"""Turns the time for a study into the effort of its contenders."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fedjax_norm.training.terminal.tables import human_seconds

EVALUATIONS = 10
"""Evaluations of a final run, evenly spaced; shorter runs have proportionally fewer."""

SHARE = 0.8
"""Share of the time that is planned; the rest is for what is slower than it was measured."""

LEAST_EFFORT = 20
"""Fewest local steps of a final run: with fewer, differences show only the start of training."""

EXCESS = 2
"""Times the budget that the smallest study may take: a busy machine measures longer times."""

SHORT = 60.0
"""Seconds of a trial below which it saves no checkpoints: if it is killed, it starts again."""

_LONGEST_TRIAL = 0.5  # share of a final run
_START = 8.0  # seconds until a process has imported its libraries and read the data
_REPORT = 2.5  # seconds for the pictures and tables of one final run


class Cost(NamedTuple):
  """The measured times of a contender on one worker, in seconds.

  Attributes:
    start: to build the program and to draw the initial model.
    compile: to compile the training of a phase and, once, the evaluation.
    step: a local step of all clients.
    evaluation: an evaluation.
    checkpoint: to save the evaluation's row, checkpoint and best model.
  """

  start: float
  compile: float
  step: float
  evaluation: float
  checkpoint: float = 0.0

  def cell(
    self, effort: int, steps: float, seeds: int, phases: int = 1, first: bool = True
  ) -> float:
    """Returns the time of a contender.

    Args:
      effort: local steps of a final run.
      steps: local steps of the search, its reserve and the final runs.
      seeds: number of final runs.
      phases: number of training programs.
      first: whether it is the first one with its model, whose start the others share.
    """
    once = first * self.start + phases * self.compile + seeds * _REPORT
    run = effort * self.step + EVALUATIONS * self.evaluation
    saved = seeds * effort if _LONGEST_TRIAL * run < SHORT else steps
    return once + (steps * run + saved * EVALUATIONS * self.checkpoint) / effort


GUESS = Cost(5, 8, 0.05, 0.2, 0.1)
"""Times of a contender that was not measured."""


def makespan(seconds: Iterable[float], workers: int) -> float:
  """Returns when the last worker ends, if each takes the longest contender that is left."""
  busy = [0.0] * workers
  for one in sorted(seconds, reverse=True):
    busy[busy.index(min(busy))] += one
  return _START + max(busy)


def effort_of(
  available: float, least: int, expected: Callable[[int], float], spent: float
) -> tuple[int, str]:
  """Returns the largest effort for which the study ends in time, or the smallest one.

  Beside it stands why the budget is refused, if even the smallest effort takes more than ``EXCESS``
  times as long; otherwise nothing.

  Args:
    available: seconds of ``--budget``.
    least: smallest effort that makes sense.
    expected: effort -> expected seconds; it rises.
    spent: seconds that the measurement took.
  """

  def fits(effort: int) -> bool:
    return spent + expected(effort) <= SHARE * available

  if not fits(least):
    needed = spent + expected(least)
    if needed <= EXCESS * available:
      return least, ""
    return least, (
      f"--budget of {human_seconds(available)} is too small: even {least} local steps for each "
      f"final run take more than twice as long; give --budget={math.ceil(needed / SHARE / 60)}m, "
      "or compare less: fewer --norms, --algorithms or --local_steps."
    )
  effort = least
  while fits(2 * effort):
    effort *= 2
  above = 2 * effort
  while above - effort > 1:
    middle = (effort + above) // 2
    effort, above = (middle, above) if fits(middle) else (effort, middle)
  return effort, ""
