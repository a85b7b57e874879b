"""Handles the errors and log messages of Orbax, the library that writes the checkpoints."""

import contextlib
import functools
import logging as python_logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging


def errno_of(error: BaseException) -> int | None:
  """Returns the operating system's error number of an exception or of its cause, or None."""
  if isinstance(error, OSError):
    return error.errno
  if match := re.search(r"os_error_code='(\d+)'", str(error)):
    return int(match[1])
  cause = error.__cause__ or error.__context__
  return errno_of(cause) if cause else None


class _DropOrbaxMessages(python_logging.Filter):
  """Drops Orbax's log records except warnings; the errors that Orbax logs are also raised."""

  def filter(self, record: python_logging.LogRecord) -> bool:
    from_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
    return not from_orbax or record.levelno == python_logging.WARNING


def _is_not_a_write_error(record: python_logging.LogRecord) -> bool:
  """Drops the failures of Orbax's other writes, which asyncio logs after the first one is raised.

  They are logged when the garbage collector finds them, hence also after the block.
  """
  return not (record.exc_info and record.exc_info[1] and errno_of(record.exc_info[1]))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences Orbax's log in the block, and after a failed block the errors of Orbax's threads."""
  drop, hook = _DropOrbaxMessages(), sys.unraisablehook
  logger, tasks = logging.get_absl_logger(), python_logging.getLogger("asyncio")
  logger.addFilter(drop)
  tasks.addFilter(_is_not_a_write_error)
  sys.unraisablehook = functools.partial(_unraisable, hook)
  try:
    yield
    # Not after a failure: Orbax's threads still run and fail.
    sys.unraisablehook = hook
    tasks.removeFilter(_is_not_a_write_error)
  finally:
    logger.removeFilter(drop)


def _unraisable(hook: Callable[[Any], Any], unraisable: Any) -> None:
  """Reports an unraisable exception, unless a thread of Orbax raised it after a failed save."""
  if str(unraisable.exc_value) != "Event loop is closed":
    hook(unraisable)
