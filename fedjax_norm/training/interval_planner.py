"""What is decided between intervals: where the next one ends, its phase, its rates and thetas."""

from typing import NamedTuple

import numpy as np

from fedjax_norm.algorithms.ledger import Traffic
from fedjax_norm.control.freeze import FreezeState
from fedjax_norm.control.skewscout import ScoutState
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.program_types import Program
from fedjax_norm.typing import PyTree, Variables


class Interval(NamedTuple):
  """Rounds in a row that one compiled program runs.

  Attributes:
    phase: its name.
    first: the round that it starts with.
    end: the round before which it ends.
    rates: [end - first] float32, the learning rates.
    thetas: [end - first] float32; 0 for algorithms without.
  """

  phase: str
  first: int
  end: int
  rates: np.ndarray
  thetas: np.ndarray


class Controls(NamedTuple):
  """What the controllers of a program remember, host arrays; None of those that it has not.

  Attributes:
    freeze: when the phase changes.
    plateau: how far the rate is lowered.
    scout: SkewScout's.
  """

  freeze: FreezeState | None
  plateau: PyTree
  scout: ScoutState | None

  @classmethod
  def initial(cls, program: Program, variables: Variables) -> "Controls":
    """Before the first round, with the initial model."""
    return cls(
      program.freeze.init(variables["batch_stats"]) if program.freeze else None,
      program.plateau.init() if program.plateau else None,
      program.scouting.scout.init() if program.scouting else None,
    )

  @property
  def frozen_at(self) -> int | None:
    """The round of the freeze, or None."""
    return int(self.freeze.frozen_at) if self.freeze and self.freeze.frozen_at >= 0 else None


def next_interval(program: Program, config: LoopConfig, controls: Controls, first: int) -> Interval:
  """The interval that starts with a round."""
  phase, end = _extent(program, config, controls, first)
  lowered = np.float32(controls.plateau.scale if program.plateau else 1)
  rates = program.rates[first:end] * np.float32(program.phases[phase].rate_factor * lowered)
  thetas = np.zeros_like(rates)
  if program.dial:
    peaks = np.maximum.accumulate(program.rates[:end])[first:]
    thetas = program.dial.of(first, rates, peaks, controls.scout)
  return Interval(phase, first, end, rates, thetas)


def _extent(
  program: Program, config: LoopConfig, controls: Controls, first: int
) -> tuple[str, int]:
  """(the phase of the interval that starts with a round, the round before which it ends)."""
  end = min(config.rounds, first + config.eval_every - first % config.eval_every)
  if controls.scout:
    end = min(end, int(controls.scout.next_look))
  if program.freeze is None or controls.freeze is None:
    return next(iter(program.phases)), end
  change = program.freeze.next_change(controls.freeze, first)
  phase = program.freeze.phase(controls.freeze, first)
  return phase, end if change is None else min(end, change)


def observe(
  program: Program,
  config: LoopConfig,
  controls: Controls,
  interval: Interval,
  server: PyTree,
  train_loss: float,
  traffic: Traffic,
) -> Controls:
  """What the controllers remember after an interval, before SkewScout looks.

  Args:
    program: what is run.
    config: its length.
    controls: before.
    interval: that was run.
    server: the server's state after it.
    train_loss: the mean of the interval; nan, if it had no labels, tells the plateau nothing.
    traffic: of its rounds.
  """
  freeze, plateau, scout = controls
  if program.freeze and freeze:
    freeze = program.freeze.observe(freeze, server.variables["batch_stats"], interval.end)
  # SkewScout's looks end intervals too, of which the plateau's patience does not count.
  whole = interval.end % config.eval_every == 0 or interval.end >= config.rounds
  if program.plateau and (whole or not scout) and not np.isnan(train_loss):
    plateau = program.plateau.observe(plateau, train_loss, interval.end)
  if scout:
    scout = scout._replace(sent=scout.sent + traffic.bytes_up + traffic.bytes_down)
  return Controls(freeze, plateau, scout)
