"""Reads the files of the presets.

The first line of a file is a comment that describes the experiment. The next comments,
``# binary:``, ``# needs:``, ``# cost:`` and ``# accuracy:``, give further fields of
:class:`Preset`. More comments are notes for the reader, and every other line is a flag.
"""

import difflib
from pathlib import Path
from typing import NamedTuple

from fedjax_norm.errors import UserError

_FOLDER = Path(__file__).parent
_FIELDS = ("binary", "needs", "cost", "accuracy")


class Preset(NamedTuple):
  """The flags of a whole experiment and what ``--preset=list`` prints about it.

  Attributes:
    name: value of ``--preset``; the file is ``NAME.flags``.
    description: one line about the experiment.
    binary: module of ``experiments`` that runs the preset.
    needs: data that the user must provide and the option that names it, or "nothing".
    cost: measured wall time of the run on two CPU cores, or "not measured: needs ...".
    accuracy: measured top-1 test accuracy at the end, or "not measured".
    flags: flags as on the command line, each ``--name=value``.
  """

  name: str
  description: str
  binary: str
  needs: str
  cost: str
  accuracy: str
  flags: tuple[str, ...]


def names() -> list[str]:
  """Returns the names of all presets in alphabetical order."""
  return sorted(path.stem for path in _FOLDER.glob("*.flags"))


def load(name: str) -> Preset:
  """Reads a preset.

  Raises:
    UserError: no preset has this name.
  """
  if name not in names():
    similar = difflib.get_close_matches(name, names())
    choice = f"choose {' or '.join(similar)}, or see" if similar else "see"
    raise UserError(f"there is no preset {name!r}; {choice} --preset=list for all presets.")
  lines = (_FOLDER / f"{name}.flags").read_text(encoding="utf-8").splitlines()
  comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
  values = dict(line.split(": ", 1) for line in comments[1 : 1 + len(_FIELDS)])
  binary, needs, cost, accuracy = (values[field] for field in _FIELDS)
  flags = tuple(line for line in lines if line and not line.startswith("#"))
  return Preset(name, comments[0], binary, needs, cost, accuracy, flags)
