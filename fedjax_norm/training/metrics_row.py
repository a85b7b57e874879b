"""A row of ``metrics.csv``: what an interval of rounds trained, cost and reached."""

from typing import Any

import numpy as np

from fedjax_norm.errors import DivergedError
from fedjax_norm.local_training import Metrics
from fedjax_norm.objectives import find
from fedjax_norm.training.interval_planner import Interval
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.rounds import Spent
from fedjax_norm.training.storage.run_folder import RunFolder


def check_finite(loss: float, interval: Interval, folder: RunFolder | None) -> None:
  """Raises a DivergedError if the loss is infinite or nan."""
  if np.isfinite(loss):
    return
  first = interval.first
  saved = f"; the checkpoint of round {first} is kept in {folder.path}" if folder and first else ""
  raise DivergedError(
    f"the loss became infinite or not a number between rounds {first} and {interval.end}{saved}; "
    "lower the learning rate or clip gradients (after FixBN's freeze, by --freeze_lr_factor or "
    "--freeze_clip_norm)."
  )


def mean_over(value: np.ndarray, total: Metrics) -> float:
  """Returns a metric's sum over an interval per labelled example; nan if there is no example."""
  return float(value / total.examples) if total.examples else float("nan")


def make_row(
  program: Program,
  interval: Interval,
  total: Metrics,
  scores: dict[str, float],
  accuracy_loss: float,
  spent: Spent,
  seconds: float,
) -> dict[str, Any]:
  """Returns an interval's row of ``metrics.csv`` without algorithm-specific columns."""
  right = find(program.objective).train_column
  return {
    "round": interval.end,
    "phase": interval.phase,
    "train_loss": mean_over(total.loss, total),
    **({right: mean_over(total.correct, total)} if right else {}),
    **scores,
    "rate": float(interval.rates[-1]),
    **({"theta": float(interval.thetas[-1])} if program.theta_schedule else {}),
    **({"accuracy_loss": accuracy_loss} if program.skewscout else {}),
    "examples": int(total.examples),
    **spent.traffic._asdict(),
    "seconds": seconds,
    **({"simulated_seconds": spent.simulated} if program.clock else {}),
  }
