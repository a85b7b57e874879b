"""The command line that repeats a run."""

import shlex
from typing import Any

from fedjax_norm.cli.flags import format_value, shown

_WHERE = ("method", "workdir", "progress")


def of_run(config: Any) -> str:
  """Returns the command of ``experiments.run`` with the options that are not the default.

  ``config`` is of a class of ``methods.ANY_METHOD``. The folder of the run is left out.
  """
  words = ["python", "-m", "experiments.run", f"--method={config.method}"]
  for one in shown(type(config)):
    value = getattr(config, one.name)
    if one.name in _WHERE or value == one.default or value is None:
      continue
    if isinstance(value, bool):
      words.append(f"--{one.name}" if value else f"--no{one.name}")
    else:
      words.append(f"--{one.name}={format_value(value)}")
  return shlex.join(words)
