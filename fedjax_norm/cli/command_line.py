"""The command line that repeats a run."""

import os
import shlex
from typing import Any

import jax

from fedjax_norm.cli.flags import format_value, shown
from fedjax_norm.invocation import command

_WHERE = ("method", "workdir", "progress")


def of_run(config: Any) -> str:
  """Returns the command of ``experiments.run`` with the options that are not the default.

  ``config`` is of a class of ``methods.ANY_METHOD``. The folder of the run is left out.
  """
  words = [*command("run").split(), f"--method={config.method}"]
  for one in shown(type(config)):
    value = getattr(config, one.name)
    if one.name in _WHERE or value == one.default or value is None:
      continue
    if isinstance(value, bool):
      words.append(f"--{one.name}" if value else f"--no{one.name}")
    else:
      words.append(f"--{one.name}={format_value(value)}")
  return shlex.join(words)


def pinning() -> str:
  """Returns the start of a command that gives it as many CPU cores as this process has.

  XLA divides sums by the number of cores, so the last bits of results depend on it.
  """
  count = len(os.sched_getaffinity(0))
  if jax.default_backend() != "cpu" or count >= (os.cpu_count() or 1):
    return ""
  return f"taskset -c {'0' if count == 1 else f'0-{count - 1}'} "
