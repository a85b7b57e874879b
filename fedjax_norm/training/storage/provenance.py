"""Lists the versions, commits and commands that ran a run: ``made_by`` in its ``config.json``."""

import configparser
import datetime
import importlib.metadata
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

_SETUP = Path(__file__).parents[3] / "setup.cfg"


def version(setup: Path = _SETUP) -> str:
  """Returns the version of this package: in a checkout, the one in its file ``setup.cfg``."""
  if checkout := _checkout(setup):
    return checkout["version"]
  try:
    return importlib.metadata.version("fedjax_norm")
  except importlib.metadata.PackageNotFoundError:
    return "unknown"


def commit(setup: Path = _SETUP) -> str:
  """Returns the commit of a checkout, with "-dirty" if files were changed; otherwise "none"."""
  if not _checkout(setup) or not (setup.parent / ".git").exists():
    return "none"  # the package may be below the repository of another project
  git = ["git", "-C", str(setup.parent), "describe", "--always", "--dirty", "--match="]
  try:
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):  # no git, or an unpacked archive
    return "none"


def _checkout(setup: Path) -> Mapping[str, str] | None:
  """Returns the metadata in a file ``setup.cfg``, if it is that of this package."""
  parser = configparser.ConfigParser(interpolation=None)
  if parser.read(setup) and parser.get("metadata", "name", fallback="") == "fedjax_norm":
    return parser["metadata"]
  return None


def entry() -> dict[str, str]:
  """Returns the entry of this process: versions, commit, date and command line."""
  return {
    "fedjax_norm": version(),
    "commit": commit(),
    "jax": jax.__version__,
    "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    "command": shlex.join(sys.orig_argv),
  }


def with_this_process(entries: list[dict[str, str]]) -> list[dict[str, str]]:
  """Returns a run's entries plus that of this process, unless it repeats the last but the date."""
  new = entry()
  same = entries and {**entries[-1], "date": ""} == {**new, "date": ""}
  return entries if same else [*entries, new]
