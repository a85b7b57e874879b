"""Checks that a run folder's ``config.json`` is that of the run that opens the folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError

Obstacle = Callable[[int, int], str | None]
"""(rounds in ``config.json``, rounds done) -> why the run cannot continue with the number of rounds
that it is opened with; None if it can."""


def check_same(
  path: Path,
  saved: dict[str, Any],
  new: dict[str, Any],
  resume: bool,
  obstacle: Obstacle | None,
  done: int,
) -> None:
  """Raises a UserError if a run must not continue the one in a folder.

  A run of several seeds may get more of them.

  Args:
    path: the folder.
    saved: its configuration, with the processes that ran it as ``made_by``.
    new: configuration of the run that opens the folder.
    resume: whether the run may continue another one.
    obstacle: decides about another number of rounds; None refuses it.
    done: number of rounds that the folder's run has done.
  """
  if not resume:
    raise UserError(
      f"{path} already holds a run, which is never overwritten; resume it with --resume or pass "
      "another --workdir."
    )
  if saved.get("format") != new["format"]:
    version = (saved.get("made_by") or [{}])[-1].get("fedjax_norm", "an older one")
    raise UserError(
      f"{path} holds a run of another version of fedjax_norm ({version}), which cannot be resumed; "
      "use that version or pass another --workdir."
    )

  # Values are compared as JSON text, in which NaN equals NaN and True differs from 1.
  def describe(config: dict[str, Any], name: str) -> str:
    return json.dumps(config[name], sort_keys=True) if name in config else "absent"

  names = {*saved, *new} - {"made_by"}
  pairs = {name: (describe(saved, name), describe(new, name)) for name in sorted(names)}
  changes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
  if changes.keys() == {"rounds"} and obstacle:
    if reason := obstacle(saved["rounds"], done):
      raise UserError(
        f"{path} holds a run of {saved['rounds']} rounds, which cannot continue with "
        f"{new['rounds']}: {reason}; pass as many rounds as before or another --workdir."
      )
  elif changes and not (
    changes.keys() == {"seeds"} and 1 < saved.get("seeds", 0) < new.get("seeds", 0)
  ):
    told = [f"--{n} was {old} in this folder and is {now} now" for n, (old, now) in changes.items()]
    raise UserError(
      f"{path} holds a run with other flags: {'; '.join(told)}; pass the same flags or "
      "another --workdir."
    )
