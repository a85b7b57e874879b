"""Trains a contender: the search for its learning rate, then the final runs of all seeds."""

from collections.abc import Callable
from pathlib import Path

from fedjax_norm.study.plan import Cell, Plan

Progress = Callable[[float], None]
"""Receives the share of a contender's work that is done, from 0 to 1."""


def train_cell(plan: Plan, cell: Cell, folder: Path, progress: Progress = lambda _: None) -> None:
  """Trains a contender and writes its outcome, ``cells/NAME.json``; what is done is read.

  Args:
    plan: the plan of the study.
    cell: the contender.
    folder: folder of the study.
    progress: is called after each evaluation; an exception of it ends the work, and the same call
      goes on later.
  """
  raise NotImplementedError
