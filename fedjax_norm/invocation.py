"""How a command of this project is started: in a checkout or with the installed package."""

import re
from pathlib import Path

IN_CHECKOUT = (Path(__file__).parents[1] / "experiments" / "run.py").is_file()
"""Whether the package is in a checkout, where ``python -m experiments.NAME`` runs a command."""


def command(name: str) -> str:
  """Returns the words that start a command, such as ``python -m experiments.study``."""
  return in_this_installation(f"python -m experiments.{name}")


def in_this_installation(text: str, in_checkout: bool = IN_CHECKOUT) -> str:
  """Returns a text that names commands as in a checkout, with the names of this installation."""
  if in_checkout:
    return text
  return re.sub(r"(python -m )?\bexperiments\.(?=[a-z])", "fedjax-norm ", text)
