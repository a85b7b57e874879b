"""SIGINT and SIGTERM: what they raise, and when they may act."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_STOPS = (signal.SIGINT, signal.SIGTERM)

# Functions that Python or JAX calls at any time, as while a program is compiled, and whose errors
# are ignored.
_DEAF = ("_xla_gc_callback", "__del__")
_AGAIN_SECONDS = 0.05


class Terminated(KeyboardInterrupt):
  """SIGTERM arrived, which a scheduler sends before it kills."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
  """Lets SIGTERM raise :class:`Terminated` in the block, and SIGINT ``KeyboardInterrupt``.

  In the main thread only. A SIGINT that is ignored, as in the background of a shell, stays so.
  """

  def stop(number: int, frame: FrameType | None) -> None:
    while frame:
      if (
        frame.f_code.co_name in _DEAF
      ):  # an exception would be lost here, so the signal comes again
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
        return
      frame = frame.f_back
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

  ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  with _handling((signal.SIGTERM,) if ignored else _STOPS, stop):
    yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
  """Lets a block end before SIGINT and SIGTERM act; in the main thread only."""
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
    yield  # Python allows handlers in the main thread alone
    return
  before = {number: signal.signal(number, handler) for number in numbers}
  try:
    yield
  finally:
    for number, old in before.items():
      signal.signal(number, old if old is not None else signal.SIG_DFL)
