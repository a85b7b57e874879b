"""How long JAX has been compiling: tracing, lowering and the backend's part."""

import time

import jax

_EVENTS = "/jax/core/compile/"


class CompileClock:
  """Listens to JAX from its construction on."""

  def __init__(self) -> None:
    self._spans: list[tuple[float, float]] = []
    jax.monitoring.register_event_duration_secs_listener(self._note)

  def _note(self, event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(_EVENTS):
      now = time.perf_counter()
      self._spans.append((now - duration_secs, now))

  def seconds(self, since: float) -> float:
    """What was spent since a time of ``time.perf_counter``; what overlaps counts once."""
    total, end = 0.0, since
    for start, stop in sorted(self._spans):
      total += max(0.0, stop - max(start, end))
      end = max(end, stop)
    return total
