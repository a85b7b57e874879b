"""What the storage library of the checkpoints says: errors of the system, and a lot of noise."""

import contextlib
import functools
import logging as python_logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging


def os_error(error: BaseException) -> int | None:
  """The number of the system's error that an exception, or one that caused it, is about."""
  if isinstance(error, OSError):
    return error.errno
  if found := re.search(r"os_error_code='(\d+)'", str(error)):
    return int(found[1])
  cause = error.__cause__ or error.__context__
  return os_error(cause) if cause else None


class _NoChatter(python_logging.Filter):
  """Drops what the storage library reports: what went well, and errors that it raises as well."""

  def filter(self, record: python_logging.LogRecord) -> bool:
    ours = f"{os.sep}orbax{os.sep}" not in record.pathname
    return ours or record.levelno == python_logging.WARNING


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences the library in a block, and what its threads say after a block that failed."""
  chatter, hook = _NoChatter(), sys.unraisablehook
  logger = logging.get_absl_logger()
  logger.addFilter(chatter)
  sys.unraisablehook = functools.partial(_unraisable, hook)
  try:
    yield
    sys.unraisablehook = hook  # after a failure the library's threads write on, and complain
  finally:
    logger.removeFilter(chatter)


def _unraisable(hook: Callable[[Any], Any], unraisable: Any) -> None:
  """Reports what no caller can catch, but for writes that end after the save that they are of."""
  if str(unraisable.exc_value) != "Event loop is closed":
    hook(unraisable)
