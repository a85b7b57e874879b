"""Whether a study may go on in its folder with the options of a command."""

from pathlib import Path
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.invocation import command
from fedjax_norm.options import from_json
from fedjax_norm.study.planning.config import AXES, StudyConfig


def check_same(folder: Path, saved: dict[str, Any], config: StudyConfig) -> None:
  """Raises a UserError if an option differs that would change the contenders' runs."""
  new = from_json(config.saved())
  old = from_json(saved)
  names = [n for n in sorted({*old, *new} - {*AXES}) if old.get(n) != new.get(n)]
  if not names:
    return

  def text(value: Any) -> str:
    return "unset" if value is None else repr(value)

  changes = "; ".join(
    f"--{name} was {text(old.get(name))} in this folder and is {text(new.get(name))} now"
    for name in names
  )
  ranking = [f"--{n}={new.get(n) or '...'}" for n in ("measure", "score") if n in names]
  compare = " ".join([command("compare"), str(folder), *ranking])
  advice = f"; to rank the finished runs in another way, {compare}" if ranking else ""
  raise UserError(
    f"{folder} holds a study with other options: {changes}; pass the same options or another "
    f"--workdir{advice}."
  )
