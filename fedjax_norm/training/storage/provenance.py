"""Records the versions and the command that made a run, for ``config.json``."""

import configparser
import datetime
import importlib.metadata
import shlex
import sys
from pathlib import Path

import jax

_SETUP = Path(__file__).parents[3] / "setup.cfg"


def version(setup: Path = _SETUP) -> str:
  """Returns the version of this package, of a checkout from ``setup.cfg`` next to the package."""
  parser = configparser.ConfigParser(interpolation=None)
  if parser.read(setup) and parser.get("metadata", "name", fallback="") == "fedjax_norm":
    return parser["metadata"]["version"]
  try:
    return importlib.metadata.version("fedjax_norm")
  except importlib.metadata.PackageNotFoundError:
    return "unknown"


def entry() -> dict[str, str]:
  """Returns the versions, the date and the command line of this process."""
  return {
    "fedjax_norm": version(),
    "jax": jax.__version__,
    "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    "command": shlex.join(sys.orig_argv),
  }


def with_this_process(entries: list[dict[str, str]]) -> list[dict[str, str]]:
  """Returns a run's entries plus the entry of this process, unless only its date is new."""
  new = entry()
  same = entries and {**entries[-1], "date": ""} == {**new, "date": ""}
  return entries if same else [*entries, new]
