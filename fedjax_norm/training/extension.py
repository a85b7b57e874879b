"""Decides whether a run can continue with another number of rounds than it was started with."""

import dataclasses
from typing import Any

import numpy as np

from fedjax_norm.data.example_order import steps_per_stretch
from fedjax_norm.norm import NORMS
from fedjax_norm.training.skewscout_run import make_theta_schedule


def obstacle(config: Any, old_rounds: int, done: int) -> str | None:
  """Returns why a run cannot continue with ``config.rounds`` rounds; None if it can.

  It can if a run that was started with ``config.rounds`` would have had the same first ``done``
  rounds, bit for bit.

  Args:
    config: the options of the run, with all defaults filled in and the new number of rounds.
    old_rounds: number of rounds with which the run was started.
    done: number of rounds that the run has done.
  """
  if config.rounds < done:
    return f"{done} rounds are already done"
  if not done:
    return None
  if done == old_rounds and done % config.eval_every:
    return (
      f"the last evaluation, of round {done}, is not a multiple of --eval_every={config.eval_every}"
    )
  old = dataclasses.replace(config, rounds=old_rounds)
  if not np.array_equal(old.rates(old_rounds)[:done], config.rates(config.rounds)[:done]):
    if config.lr_schedule == "step":
      return "its --lr_boundaries are shares of the run; give them in rounds from the start"
    return f"--lr_schedule={config.lr_schedule} falls over the whole run"
  if old.make_norm(old_rounds) != config.make_norm(config.rounds):
    return f"--norm={config.norm} changes at fractions of all rounds (--brn_ramp)"
  if NORMS[config.norm].freezes_statistics:
    freezes = {_latest_freeze(old), _latest_freeze(config)}
    if len(freezes) > 1 and min(freezes) <= done:
      return f"--freeze_round={config.freeze_round} depends on the number of rounds"
  stretches = {steps_per_stretch(old, old_rounds), steps_per_stretch(config, config.rounds)}
  if len(stretches) > 1 and min(stretches) < done:
    return "--drift depends on the number of rounds"
  if config.row and not np.array_equal(_thetas(old, done), _thetas(config, done)):
    return "the method's threshold depends on the number of rounds"
  return None


def _latest_freeze(config: Any) -> int:
  """Returns the round at which FixBN freezes its statistics at the latest."""
  policy = config.freeze(config.rounds, window=1)
  return policy.latest if policy.round is None else policy.round


def _thetas(config: Any, done: int) -> np.ndarray:
  """Returns the scheduled communication thresholds of the first rounds; none without a schedule."""
  schedule = make_theta_schedule(config, config.row, config.rounds)
  return schedule.values[:done] if schedule else np.zeros(0)
