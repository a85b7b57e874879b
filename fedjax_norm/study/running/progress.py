"""The progress line of a study: what all of its processes, on any machine, have done."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fedjax_norm.study.planning.budget import makespan
from fedjax_norm.study.planning.plan import Cell, Plan
from fedjax_norm.study.running import leases
from fedjax_norm.study.running.workers import lease_of, unfinished
from fedjax_norm.training.storage.atomic_files import read_json
from fedjax_norm.training.terminal.progress import new_bar
from fedjax_norm.training.terminal.tables import human_seconds

_POLL = 1.0
_FORMAT = "{desc} {percentage:3.0f}% |{bar:20}| {elapsed}{postfix}"

# Seconds for which the plan's expectation counts as if it had been observed.
_PRIOR = 30.0


def seconds_left(plan: Plan, folder: Path) -> float:
  """Returns how many of the plan's expected seconds of work on one worker are left.

  A contender that was given back counts as its process left it, because it goes on from there.
  """
  return math.fsum(c.seconds * (1 - _share(folder, c)) for c in unfinished(plan, folder))


def _share(folder: Path, cell: Cell) -> float:
  """Returns the share of an unfinished contender that is done."""
  holder = leases.read(lease_of(folder, cell))
  return holder.share if holder else 0.0


def time_left(left: float, done: float, elapsed: float, workers: int) -> float:
  """Returns the expected seconds until the end of a study.

  Args:
    left: seconds of work that are left, on one worker.
    done: seconds of work that were done in ``elapsed`` seconds.
    elapsed: time since the first look.
    workers: number of workers of the plan.
  """
  return left * (elapsed + _PRIOR) / (done + _PRIOR * workers)


def what_is_left(plan: Plan, folder: Path) -> dict[str, str]:
  """Returns how many contenders of a study that goes on are done, and the time for the rest."""
  cells = unfinished(plan, folder)
  counts = {"done": f"{len(plan.cells) - len(cells)} of {len(plan.cells)} contenders"}
  if not cells:
    return counts
  pace, how = 1.0, ""
  if not plan.costs:  # the plan's times are guesses
    done = [cell for cell in plan.cells if cell not in cells]
    outcomes = [read_json(folder / "cells" / f"{cell.name}.json") for cell in done]
    trained = [
      (cell.seconds, one["seconds"])
      for cell, one in zip(done, outcomes, strict=True)
      if one.get("state") == "done"
    ]
    guessed, taken = map(math.fsum, zip(*trained, strict=True)) if trained else (1.0, 1.0)
    pace = taken / guessed
    how = ", by the times of those" if trained else ", roughly, because nothing was measured"
  left = [cell.seconds * pace * (1 - _share(folder, cell)) for cell in cells]
  time = human_seconds(makespan(left, plan.workers))
  return counts | {"expected time of the rest": time + how}


@contextlib.contextmanager
def shown(plan: Plan, folder: Path, enabled: bool, noun: str) -> Iterator[None]:
  """Shows the line with what is done and the time left during the block, if ``enabled``.

  ``noun`` is what the contenders are called.
  """
  if not enabled:
    yield
    return
  total = math.fsum(cell.seconds for cell in plan.cells)
  first, began, ended = seconds_left(plan, folder), time.monotonic(), threading.Event()
  with new_bar(total, total - first, enabled, _FORMAT, desc="study") as bar:

    def update() -> None:
      left = seconds_left(plan, folder)
      expected = time_left(left, first - left, time.monotonic() - began, plan.workers)
      finished = len(plan.cells) - len(unfinished(plan, folder))
      text = f"{finished} of {len(plan.cells)} {noun}"
      if finished < len(plan.cells) and expected >= 1:
        text += f", {human_seconds(expected)} left"
      bar.set_postfix_str(text, refresh=False)
      bar.update(max(total - left - bar.n, 0))

    def follow() -> None:
      while not ended.wait(_POLL):
        with contextlib.suppress(OSError):  # the network may be down for a moment
          update()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
      yield
    finally:
      ended.set()
      thread.join()
      update()
      bar.refresh()
