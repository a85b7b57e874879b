"""Lists the versions and commands that ran a run, for ``made_by`` in its ``config.json``."""

import configparser
import datetime
import importlib.metadata
import shlex
import sys
from pathlib import Path

import jax

_SETUP = Path(__file__).parents[3] / "setup.cfg"


def version(setup: Path = _SETUP) -> str:
  """Returns the version of this package: in a checkout, the one in its file ``setup.cfg``."""
  parser = configparser.ConfigParser(interpolation=None)
  if parser.read(setup) and parser.get("metadata", "name", fallback="") == "fedjax_norm":
    return parser["metadata"]["version"]
  try:
    return importlib.metadata.version("fedjax_norm")
  except importlib.metadata.PackageNotFoundError:
    return "unknown"


def entry() -> dict[str, str]:
  """Returns the entry of this process: versions of this package and JAX, date, command line."""
  return {
    "fedjax_norm": version(),
    "jax": jax.__version__,
    "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    "command": shlex.join(sys.orig_argv),
  }


def with_this_process(entries: list[dict[str, str]]) -> list[dict[str, str]]:
  """Returns a run's entries plus that of this process, unless it repeats the last but the date."""
  new = entry()
  same = entries and {**entries[-1], "date": ""} == {**new, "date": ""}
  return entries if same else [*entries, new]
