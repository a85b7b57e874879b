"""The progress line of a study: what all of its processes, on any machine, have done."""

import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path

from fedjax_norm.study import leases
from fedjax_norm.study.plan import Plan
from fedjax_norm.study.workers import lease_of, unfinished
from fedjax_norm.training.terminal.progress import new_bar

_POLL = 1.0


def seconds_done(plan: Plan, folder: Path) -> float:
  """Returns how many of the study's expected seconds of work are done.

  Work that was given back unfinished counts as its process left it, because it goes on from there.
  """
  missing = unfinished(plan, folder)
  shares = {cell.name: leases.read(lease_of(folder, cell)) for cell in missing}
  left = (cell.seconds * (1 - (one.share if (one := shares[cell.name]) else 0)) for cell in missing)
  return math.fsum(cell.seconds for cell in plan.cells) - math.fsum(left)


@contextlib.contextmanager
def shown(plan: Plan, folder: Path, enabled: bool) -> Iterator[None]:
  """Shows the line with the share of the work that is done and the time left, if ``enabled``."""
  if not enabled:
    yield
    return
  text = "{desc} {percentage:3.0f}% |{bar:20}| {elapsed}<{remaining}{postfix}"
  total = math.fsum(cell.seconds for cell in plan.cells)
  start, ended = seconds_done(plan, folder), threading.Event()
  with new_bar(total, start, enabled, text, desc="study", smoothing=0) as bar:

    def update() -> None:
      finished = len(plan.cells) - len(unfinished(plan, folder))
      words = f"{finished} of {len(plan.cells)} contenders"
      bar.set_postfix_str(words, refresh=False)
      bar.update(max(seconds_done(plan, folder) - bar.n, 0))

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
