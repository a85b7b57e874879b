"""Plans the intervals of a run: consecutive rounds without an evaluation in between.

An interval ends after ``eval_every`` rounds, at FixBN's freeze, or when SkewScout measures. Then
the states of the freeze, of the plateau policy and of SkewScout are updated.
"""

from typing import NamedTuple

import numpy as np

from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.control.freeze import FreezeState
from fedjax_norm.control.skewscout import ScoutState
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.program_types import Program
from fedjax_norm.typing import PyTree, Variables


class Interval(NamedTuple):
  """Consecutive rounds of one phase between two evaluations.

  Attributes:
    phase: name of the phase.
    first: first round.
    end: round after the last one.
    rates: [end - first] float32, learning rate of each round.
    thetas: [end - first] float32, communication threshold of each round; 0 for methods without one.
  """

  phase: str
  first: int
  end: int
  rates: np.ndarray
  thetas: np.ndarray


class Controls(NamedTuple):
  """The states of a program's controllers, as host arrays; None for a controller that is off.

  Attributes:
    freeze: state of FixBN's freeze.
    plateau: state of the plateau policy; its ``scale`` multiplies the learning rate.
    scout: state of SkewScout.
  """

  freeze: FreezeState | None
  plateau: PyTree
  scout: ScoutState | None

  @classmethod
  def initial(cls, program: Program, variables: Variables) -> "Controls":
    """Returns the states before the first round, from the initial model."""
    return cls(
      program.freeze.init(variables["batch_stats"]) if program.freeze else None,
      program.plateau.init() if program.plateau else None,
      program.skewscout.scout.init() if program.skewscout else None,
    )

  @property
  def frozen_at(self) -> int | None:
    """The round of FixBN's freeze; None before the freeze."""
    return int(self.freeze.frozen_at) if self.freeze and self.freeze.frozen_at >= 0 else None


def next_interval(program: Program, config: LoopConfig, controls: Controls, first: int) -> Interval:
  """Returns the interval that starts with round ``first``."""
  end = min(config.rounds, first + config.eval_every - first % config.eval_every)
  if controls.scout:
    end = min(end, int(controls.scout.next_look))
  phase = next(iter(program.phases))
  if program.freeze and controls.freeze:
    change = program.freeze.next_change(controls.freeze, first)
    phase = program.freeze.phase(controls.freeze, first)
    end = end if change is None else min(end, change)
  lowered = np.float32(controls.plateau.scale if program.plateau else 1)
  rates = program.rates[first:end] * np.float32(program.phases[phase].rate_factor * lowered)
  thetas = np.zeros_like(rates)
  if program.theta_schedule:
    peaks = np.maximum.accumulate(program.rates[:end])[first:]
    thetas = program.theta_schedule.thetas(first, rates, peaks, controls.scout)
  return Interval(phase, first, end, rates, thetas)


def observe(
  program: Program,
  config: LoopConfig,
  controls: Controls,
  interval: Interval,
  server: PyTree,
  train_loss: float,
  traffic: Traffic,
) -> Controls:
  """Returns the controllers' states after an interval, before SkewScout measures.

  ``server`` is the server's state after the interval; ``train_loss`` and ``traffic`` are the mean
  loss and the traffic of the interval. The plateau policy ignores a loss of nan, the mean of no
  labelled examples.
  """
  freeze, plateau, scout = controls
  if program.freeze and freeze:
    freeze = program.freeze.observe(freeze, server.variables["batch_stats"], interval.end)
  # Intervals that end only because SkewScout measures do not count for --lr_patience.
  scheduled = interval.end % config.eval_every == 0 or interval.end >= config.rounds
  if program.plateau and (scheduled or not scout) and not np.isnan(train_loss):
    plateau = program.plateau.observe(plateau, train_loss, interval.end)
  if scout:
    scout = scout._replace(sent=scout.sent + traffic.bytes_up + traffic.bytes_down)
  return Controls(freeze, plateau, scout)
