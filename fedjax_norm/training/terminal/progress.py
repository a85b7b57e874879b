"""Progress lines on the terminal."""

import contextlib
import sys
import time
from typing import Any

import tqdm


def new_bar(total: float, done: float, enabled: bool, bar_format: str, **given: Any) -> tqdm.tqdm:
  """Returns a line on stderr with a bar, which is shown if ``enabled``.

  Args:
    total: what there is to do.
    done: how much of it was done before.
    enabled: whether the line is shown.
    bar_format: format of the line.
    **given: further arguments of ``tqdm``.
  """
  return tqdm.tqdm(
    total=total,
    initial=done,
    disable=not enabled,
    bar_format=bar_format,
    file=sys.stderr,
    # In a log file every refresh adds a line, so refreshes are rare there.
    mininterval=0.2 if sys.stderr.isatty() else 10.0,
    miniters=1,
    dynamic_ncols=True,
    **given,
  )


class Progress(contextlib.AbstractContextManager):
  """Progress of training on stderr, until the block ends.

  On a terminal it is one line with round, time left, loss, test result and speed, which each
  evaluation renews; in a log file it is a new line for each evaluation.
  """

  def __init__(self, total: int, start: int = 0, enabled: bool = True, unit: str = "round"):
    """Shows progress if ``enabled``; a resumed run has completed ``start`` rounds before."""
    self._unit, self._start = unit, start
    self._logs = enabled and not sys.stderr.isatty()
    text = "{desc} {n_fmt}/{total_fmt} |{bar:20}| {elapsed}<{remaining}{postfix}"
    shown = enabled and not self._logs
    self._bar = new_bar(total, start, shown, text, desc=unit, unit=unit)
    self._started = time.perf_counter()

  def update(self, round: int, loss: float, tested: str, examples_per_second: float) -> None:
    """Shows an evaluation at ``round``, with the text ``tested`` of its result.

    ``loss`` and ``examples_per_second`` are of training since the evaluation before.
    """
    text = f"loss {loss:.4f}, {tested}, {examples_per_second:,.0f} examples/s"
    if self._logs:
      elapsed = time.perf_counter() - self._started
      left = elapsed * (self._bar.total - round) / (round - self._start)
      times = "<".join(map(tqdm.tqdm.format_interval, (elapsed, left)))
      print(f"{self._unit} {round}/{self._bar.total} {times}, {text}", file=sys.stderr, flush=True)
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.update(round - self._bar.n)

  def __exit__(self, *_: object) -> None:
    """Shows the final state and ends the line of a terminal."""
    if not self._bar.disable:
      self._bar.refresh()
    self._bar.close()
