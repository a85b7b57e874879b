"""The progress line of a study: what all of its processes, on any machine, have done."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fedjax_norm.study.planning.plan import Plan
from fedjax_norm.study.running import leases
from fedjax_norm.study.running.workers import lease_of, unfinished
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

  cells = unfinished(plan, folder)
  holders = (leases.read(lease_of(folder, cell)) for cell in cells)
  shares = (holder.share if holder else 0.0 for holder in holders)
  return math.fsum(c.seconds * (1 - share) for c, share in zip(cells, shares, strict=True))


def time_left(left: float, done: float, elapsed: float, workers: int) -> float:
  """Returns the expected seconds until the end of a study.

  Args:
    left: seconds of work that are left, on one worker.
    done: seconds of work that were done in ``elapsed`` seconds.
    elapsed: time since the first look.
    workers: number of workers of the plan.
  """
  return left * (elapsed + _PRIOR) / (done + _PRIOR * workers)


@contextlib.contextmanager
def shown(plan: Plan, folder: Path, enabled: bool) -> Iterator[None]:
  """Shows the line with what is done and the time left during the block, if ``enabled``."""
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
      text = f"{finished} of {len(plan.cells)} contenders, {human_seconds(expected)} left"
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
