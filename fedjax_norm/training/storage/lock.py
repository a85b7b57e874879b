"""The lock on a run's folder. The kernel releases it when the process ends, even by a kill."""

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.atomic_files import filename_in_errors, read_json, write_json

LOCK = "run.lock"
HOLDER = "run.lock.json"
"""File that names the process with the lock. If a kill leaves the file behind, it locks nothing."""


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
  """Locks an existing folder against all other processes during the block.

  Args:
    folder: the folder.
    wait: whether to print a note and wait if another process has the lock.

  Raises:
    UserError: another process has the lock, and ``wait`` is False.
    OSError: the lock file cannot be written.
  """
  lock, holder = FileLock(folder / LOCK), folder / HOLDER
  with filename_in_errors(folder / LOCK):
    try:
      lock.acquire(blocking=False)
    except Timeout as error:
      if not wait:
        raise UserError(
          f"{folder} is in use by {_describe(holder)}; pass --wait_for_workdir to wait "
          "until that process ends, or pass another --workdir."
        ) from error
      print(f"note: waiting for {folder}, which is in use by {_describe(holder)}.", flush=True)
      lock.acquire(poll_interval=0.5)
  now = datetime.datetime.now().isoformat(" ", "seconds")
  with contextlib.ExitStack() as cleanup:
    cleanup.callback(lock.release)
    write_json(holder, {"process": os.getpid(), "host": socket.gethostname(), "since": now})
    cleanup.callback(holder.unlink, missing_ok=True)
    yield


def _describe(holder: Path) -> str:
  try:
    return "process {process} on {host} since {since}".format(**read_json(holder))
  except (UserError, KeyError):  # the process has the lock but has not written the file yet
    return "another process"
