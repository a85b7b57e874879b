"""The lock on a run's folder. The kernel releases it when its process ends, however it ends."""

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
"""Says who holds the lock; a killed process leaves it behind, which blocks nobody."""


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
  """Keeps all other processes from writing into a folder for as long as the block runs.

  Args:
    folder: which exists.
    wait: whether to wait, with a note that says for whom, until another process has left it.

  Raises:
    UserError: another process holds the folder, and ``wait`` is False.
    OSError: the lock cannot be written.
  """
  lock, holder = FileLock(folder / LOCK), folder / HOLDER
  with filename_in_errors(folder / LOCK):
    try:
      lock.acquire(blocking=False)
    except Timeout as error:
      if not wait:
        raise UserError(
          f"{folder} is in use by {_told(holder)}; wait until that ends, pass "
          "--wait_for_workdir to do so, or pass another --workdir."
        ) from error
      print(f"note: waiting for {folder}, which is in use by {_told(holder)}.", flush=True)
      lock.acquire(poll_interval=0.5)
  now = datetime.datetime.now().isoformat(" ", "seconds")
  with contextlib.ExitStack() as held:
    held.callback(lock.release)
    write_json(holder, {"process": os.getpid(), "host": socket.gethostname(), "since": now})
    held.callback(holder.unlink, missing_ok=True)
    yield


def _told(holder: Path) -> str:
  try:
    return "process {process} on {host} since {since}".format(**read_json(holder))
  except (UserError, KeyError):  # it holds the lock and has not yet written who it is
    return "another process"
