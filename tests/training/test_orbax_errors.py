"""Errors of Orbax's threads and tasks: silent after a failed save only."""

import asyncio
import contextlib
import errno
import gc

import pytest

from fedjax_norm.training.storage import orbax_errors

_FULL = ValueError("Failed to write to file 17 [os_error_code='28']")


@pytest.mark.parametrize(
  ("raised", "left", "logged"),
  [
    (_FULL, _FULL, False),
    (_FULL, ValueError("a bug"), True),
    (None, OSError(errno.ENOSPC, "No space left on device"), True),
  ],
)
def test_a_second_failed_write_is_not_logged_after_the_first(raised, left, logged, caplog):
  with contextlib.suppress(ValueError), orbax_errors.quiet():
    if raised:
      raise raised
  loop = asyncio.new_event_loop()
  loop.create_future().set_exception(left)
  gc.collect()
  loop.close()
  with orbax_errors.quiet():
    pass  # a save that succeeds reports again
  assert bool(caplog.records) == logged
