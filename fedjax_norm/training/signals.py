"""SIGINT and SIGTERM: what they raise, and when they may act."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
  """SIGTERM arrived, which a scheduler sends before it kills."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
  """Lets SIGTERM raise :class:`Terminated` in the block; in the main thread only."""

  def terminate(number: int, frame: Any) -> NoReturn:
    raise Terminated

  with _handling((signal.SIGTERM,), terminate):
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
