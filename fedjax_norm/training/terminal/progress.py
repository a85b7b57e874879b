"""The progress line of a run on the terminal."""

import contextlib
import sys

import tqdm


class Progress(contextlib.AbstractContextManager):
  """A line on stderr with round, time left, loss, test result and speed, until the block ends."""

  def __init__(self, total_rounds: int, start: int = 0, enabled: bool = True):
    """Shows the line if ``enabled``; a resumed run has completed ``start`` rounds before."""
    self._bar = tqdm.tqdm(
      total=total_rounds,
      initial=start,
      disable=not enabled,
      desc="round",
      unit="round",
      file=sys.stderr,
      # In a log file every refresh adds a line, so refreshes are rare there.
      mininterval=0.2 if sys.stderr.isatty() else 10.0,
      miniters=1,
      dynamic_ncols=True,
      bar_format="{desc} {n_fmt}/{total_fmt} |{bar:20}| {elapsed}<{remaining}{postfix}",
    )

  def update(self, round: int, loss: float, tested: str, examples_per_second: float) -> None:
    """Updates the line after an evaluation at ``round``, with the text ``tested`` of its result.

    ``loss`` and ``examples_per_second`` are of training since the evaluation before.
    """
    text = f"loss {loss:.4f}, {tested}, {examples_per_second:,.0f} examples/s"
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.update(round - self._bar.n)

  def __exit__(self, *_: object) -> None:
    """Shows the final state and ends the line."""
    if not self._bar.disable:
      self._bar.refresh()
    self._bar.close()
