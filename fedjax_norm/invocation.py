"""How a command of this project is started: in a checkout or by the console script."""

import re
import sys
from pathlib import Path

SCRIPT = "fedjax-norm"
"""The console script."""

_PACKAGE = Path(__file__).parent
_NAMES = "|".join(path.stem for path in (_PACKAGE / "cli" / "commands").glob("[a-z]*.py"))

# The name of a command, but not a part of a file's path or of another module's name.
_COMMAND = re.compile(rf"(?:python -m |(?<![\w/.-]))experiments\.({_NAMES})\b(?!\.\w|/)")


def in_checkout() -> bool:
  """Returns whether ``python -m experiments.NAME`` runs a command, unless the script does."""
  binaries = _PACKAGE.parent / "experiments" / "run.py"
  return binaries.is_file() and not Path(sys.argv[0]).name.startswith(SCRIPT)


def command(name: str) -> str:
  """Returns the words that start a command, such as ``python -m experiments.study``."""
  return as_started(f"python -m experiments.{name}")


def as_started(text: str) -> str:
  """Returns a text that names commands as in a checkout, with the names that work here."""
  return text if in_checkout() else for_script(text)


def for_script(text: str) -> str:
  """Returns a text that names commands as in a checkout, with those of the console script."""
  return _COMMAND.sub(rf"{SCRIPT} \1", text)
