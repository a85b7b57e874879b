"""Turns the signals SIGINT and SIGTERM into exceptions, or delays them until a block ends."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_STOPS = (signal.SIGINT, signal.SIGTERM)

# Functions that Python or JAX can call at any time, and in which exceptions are ignored.
_IGNORING_ERRORS = ("_xla_gc_callback", "__del__")
_RESEND_SECONDS = 0.05


class Terminated(KeyboardInterrupt):
  """SIGTERM arrived, which job schedulers send before they kill a process."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
  """Makes SIGTERM raise :class:`Terminated` in the block, and SIGINT ``KeyboardInterrupt``.

  Works in the main thread only. If SIGINT is ignored (a background job), it stays ignored.
  """

  def stop(number: int, frame: FrameType | None) -> None:
    while frame:
      if frame.f_code.co_name in _IGNORING_ERRORS:  # signals again later
        threading.Timer(_RESEND_SECONDS, os.kill, (os.getpid(), number)).start()
        return
      frame = frame.f_back
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

  ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  with _handling((signal.SIGTERM,) if ignored else _STOPS, stop):
    yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
  """Delays SIGINT and SIGTERM until the block ends; works in the main thread only."""
  arrived: list[int] = []
  try:
    with _handling(_STOPS, lambda number, frame: arrived.append(number)):
      yield
  finally:
    for number in arrived[:1]:
      signal.raise_signal(number)


@contextlib.contextmanager
def _handling(numbers: tuple[int, ...], handler: Callable[[int, Any], None]) -> Iterator[None]:
  if threading.current_thread() is not threading.main_thread():
    yield  # Python allows signal handlers only in the main thread
    return
  before = {number: signal.signal(number, handler) for number in numbers}
  try:
    yield
  finally:
    for number, old in before.items():
      signal.signal(number, old if old is not None else signal.SIG_DFL)
