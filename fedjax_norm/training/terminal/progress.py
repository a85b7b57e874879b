"""The progress of a run on the terminal."""

import sys

import tqdm


class Progress:
  """One line on stderr: round, loss, accuracy, speed, time left; a context manager."""

  def __init__(self, total_rounds: int, start: int = 0, enabled: bool = True):
    """Shows the line.

    Args:
      total_rounds: rounds of the whole run.
      start: rounds already done, by the run that is resumed.
      enabled: False shows nothing.
    """
    self._bar = tqdm.tqdm(
      total=total_rounds,
      initial=start,
      disable=not enabled,
      desc="round",
      unit="round",
      file=sys.stderr,
      # In a log file every refresh stays, so that there they come seldom.
      mininterval=0.2 if sys.stderr.isatty() else 10.0,
      miniters=1,
      dynamic_ncols=True,
      bar_format="{desc} {n_fmt}/{total_fmt} |{bar:20}| {elapsed}<{remaining}{postfix}",
    )

  def update(self, round: int, loss: float, tested: str, examples_per_second: float) -> None:
    """Moves to a round.

    Args:
      round: rounds done.
      loss: the mean training loss of the last interval.
      tested: how the model does on the test set.
      examples_per_second: training examples a second of the last interval.
    """
    self._bar.set_postfix_str(
      f"loss {loss:.4f}, {tested}, {examples_per_second:,.0f} examples/s", refresh=False
    )
    self._bar.update(round - self._bar.n)

  def close(self) -> None:
    """Shows the last state and ends the line."""
    if not self._bar.disable:
      self._bar.refresh()
    self._bar.close()

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_) -> None:
    self.close()
