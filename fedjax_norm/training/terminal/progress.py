"""The progress line of a run on the terminal."""

import sys

import tqdm


class Progress:
  """A line on stderr: round, loss, accuracy, speed, time left; a context manager."""

  def __init__(self, total_rounds: int, start: int = 0, enabled: bool = True):
    """Shows the line.

    Args:
      total_rounds: number of rounds of the run.
      start: number of rounds completed before the run was resumed.
      enabled: whether to show the line.
    """
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
    """Updates the line after an evaluation.

    Args:
      round: number of completed rounds.
      loss: mean training loss of the last interval.
      tested: text with the test result.
      examples_per_second: training examples per second in the last interval.
    """
    self._bar.set_postfix_str(
      f"loss {loss:.4f}, {tested}, {examples_per_second:,.0f} examples/s", refresh=False
    )
    self._bar.update(round - self._bar.n)

  def close(self) -> None:
    """Shows the final state and ends the line."""
    if not self._bar.disable:
      self._bar.refresh()
    self._bar.close()

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
