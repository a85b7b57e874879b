"""Puts finished runs side by side: ``python -m experiments.compare runs/a runs/b``.

Draws their test accuracy over rounds into one picture and prints a table; a run is named by the
flags in which the runs differ.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app as absl_app
from absl import flags

from experiments.app import guard, parse_flags
from fedjax_norm.errors import UserError
from fedjax_norm.training import plots
from fedjax_norm.training.run_folder import RunFolder
from fedjax_norm.training.table import columns_table, human_bytes

_OUTPUT = flags.DEFINE_string("output", "compare.png", "Where the picture goes.")
_TITLE = flags.DEFINE_string("title", "Test accuracy", "Its title.")


def names(configs: list[dict[str, Any]]) -> list[str]:
  """Names runs by the flags in which they differ, leaving out seeds where others do.

  Raises:
    UserError: two runs do not differ at all.
  """
  keys = sorted({key for config in configs for key in config})
  apart = [key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)]
  if apart == ["norm"]:
    result = [str(config["norm"]) for config in configs]
  else:
    result = [" ".join(f"{key}={config.get(key)}" for key in apart) for config in configs]
  if len(set(result)) < len(result):
    raise UserError("two of these runs have the same flags; name each run once.")
  return result


def compare(folders: Sequence[str], output: str, title: str) -> str:
  """Draws the picture and gives the table.

  Args:
    folders: of at least two runs with summaries.
    output: the picture's path.
    title: of the picture.

  Raises:
    UserError: fewer than two folders, or one that holds no finished run.
  """
  if len(folders) < 2:
    raise UserError("name at least two run folders to compare.")
  configs, runs, summaries = [], [], []
  for name in folders:
    path = Path(name)
    if not (path / "summary.json").exists() or not (path / "config.json").exists():
      raise UserError(f"{name} holds no finished run; name the folder that --workdir was.")
    config = json.loads((path / "config.json").read_text())
    with RunFolder.open(path, config) as folder:
      configs.append(config)
      runs.append(folder.rows())
      summaries.append(folder.read_summary() or {})
  labels = names(configs)
  plots.compare(dict(zip(labels, runs, strict=True)), output, title)
  table = [
    [
      label,
      f"{s['top1']:.2%}",
      f"{s['loss']:.4f}",
      human_bytes(s["bytes_up"] + s["bytes_down"]),
      f"{s['round_trips']:,}",
    ]
    for label, s in zip(labels, summaries, strict=True)
  ]
  return columns_table(["run", "top-1", "test loss", "sent", "round trips"], table)


def main(argv: Sequence[str]) -> None:
  """Compares the runs named on the command line."""

  def work() -> None:
    print(compare(argv[1:], _OUTPUT.value, _TITLE.value))
    print(f"picture: {_OUTPUT.value}")

  sys.exit(guard(work))


if __name__ == "__main__":
  absl_app.run(main, flags_parser=parse_flags)
