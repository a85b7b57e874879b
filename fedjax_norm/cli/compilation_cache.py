"""The folder in which JAX saves compiled programs for later runs."""

import contextlib
import os
from pathlib import Path

import jax
from filelock import FileLock, Timeout

# Size limit of the folder. JAX first deletes the least recently used programs; with a limit, it
# also locks the folder, so that no process reads a program that another one is writing.
_BYTES = 2**30


def set_compilation_cache(enabled: bool) -> None:
  """Makes JAX save compiled programs for later runs if ``enabled``, and never otherwise.

  The folder is JAX_COMPILATION_CACHE_DIR if this environment variable is set, else a folder in the
  user's cache.
  """
  if not enabled:
    jax.config.update("jax_enable_compilation_cache", False)
  if not enabled or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return
  folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "fedjax_norm/compiled").expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    _remove_incomplete(folder)
  except OSError as error:
    print(f"note: compiled programs are not saved; {folder} cannot be used ({error.strerror}).")
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_compilation_cache_max_size", _BYTES)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # saves small programs too


def _remove_incomplete(folder: Path) -> None:
  """Removes programs whose process was killed while it saved them; JAX would never replace them.

  JAX writes a program and then, in a file of its own, when it was last used: without this file the
  program may be incomplete. JAX locks the folder while it writes, and so does this function.
  """
  with contextlib.suppress(Timeout), FileLock(folder / ".lockfile", timeout=10):
    used = {file.name.removesuffix("-atime") for file in folder.glob("*-atime")}
    for program in folder.glob("*-cache"):
      if program.name.removesuffix("-cache") not in used:
        program.unlink()
