"""Measures the time that JAX spends on compilation: tracing, lowering and the backend."""

import time

import jax

_EVENTS = "/jax/core/compile/"


class CompileClock:
  """Records JAX's compilation events from its construction on."""

  def __init__(self) -> None:
    self._spans: list[tuple[float, float]] = []
    jax.monitoring.register_event_duration_secs_listener(self._note)

  def _note(self, event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(_EVENTS):
      now = time.perf_counter()
      self._spans.append((now - duration_secs, now))

  def seconds(self, since: float) -> float:
    """Returns the seconds spent since a time of ``time.perf_counter``; overlaps count once."""
    total, end = 0.0, since
    for start, stop in sorted(self._spans):
      total += max(0.0, stop - max(start, end))
      end = max(end, stop)
    return total
