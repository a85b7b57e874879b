"""How clients differ in finished runs: ``python -m experiments.diagnostics runs/iid runs/skewed``.

Of everything that the runs recorded it writes a picture and its data as CSV, with all runs beside
each other: the test accuracy, what ``--diagnostics`` measured (divergence of minibatch means by
channel, local and unsent updates, differences of models, their accuracy on blocks of classes), and
the accuracy that models lose on other clients' data (``--skewscout=measure``). The documentation's
page Presets has the commands for figures 4, 16, 17 and 21 to 24 of paper 004.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedjax_norm.cli import app
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option
from fedjax_norm.plots import base
from fedjax_norm.plots.client_differences import differences_figure
from fedjax_norm.study.report.page import full_names
from fedjax_norm.study.results import study_files
from fedjax_norm.study.results.client_differences import by_quantity
from fedjax_norm.training.storage.csv_rows import Row, write_table
from fedjax_norm.training.storage.run_folder import read_config
from fedjax_norm.training.terminal.tables import columns_table

Panels = dict[str, dict[str, list[Row]]]
"""Title of a panel, or an empty text -> name of a run -> rows of one quantity."""


@dataclasses.dataclass(frozen=True)
class DiagnosticsFlags(Options):
  """The options of ``experiments.diagnostics``."""

  panels: str | None = option(
    None,
    "Option of the runs, such as algorithm or partition: each of its values gets a panel of its "
    "own. By default all runs are in one panel.",
  )
  epoch: int | None = option(
    None,
    "Number of training examples of all clients, such as 50000: curves are drawn against epochs of "
    "this size. By default they are drawn against the training images seen.",
    least=1,
  )
  output: str | None = option(
    None,
    "New or empty folder for the figures and their data; by default a new folder diagnostics in "
    "the working directory.",
  )


def main(config: DiagnosticsFlags, *paths: str) -> None:
  """Draws each quantity that the runs in the folders ``paths`` recorded, and writes it as CSV.

  Raises:
    UserError: a folder holds no finished run, the runs lack the option ``panels``, or the folder of
      the results cannot be used.
  """
  if not paths:
    raise UserError("name the folders of finished runs, such as runs/iid runs/skewed.")
  folder = _folder(config.output)
  found: dict[str, Panels] = {}
  for panel, members in _grouped(paths, config.panels).items():
    contenders = study_files.read_runs(members)
    for name, one in zip(full_names(contenders), contenders, strict=True):
      for quantity, rows in by_quantity(one, config.epoch).items():
        found.setdefault(quantity, {}).setdefault(panel, {})[name] = rows
  folder.mkdir(parents=True, exist_ok=True)
  lines = []
  for quantity, panels in found.items():
    table = []
    for panel, runs in panels.items():
      for name, rows in runs.items():
        lines.append([quantity, *([panel] if config.panels else []), name, *_range(rows)])
        table += [{"panel": panel, "run": name, **row} for row in rows]
    write_table(folder / f"{quantity}.csv", table)
    title = quantity.replace("_", " ")
    base.save(differences_figure(quantity, panels, title), folder / f"{quantity}.png")
  head = ["quantity", *(["panel"] if config.panels else []), "run", "lowest", "mean", "highest"]
  print(columns_table(head, lines))
  if not found.keys() - {"top1", "accuracy_loss"}:
    print(
      "note: none of the runs was trained with --diagnostics, which records the other quantities"
    )
  print(f"written: {folder}")


def _grouped(paths: Sequence[str], name: str | None) -> dict[str, list[str]]:
  """Returns the runs by their value of an option, as title of a panel -> folders."""
  if name is None:
    return {"": list(paths)}
  groups: dict[str, list[str]] = {}
  for path in paths:
    saved = read_config(Path(path).expanduser())
    if name not in saved:
      raise UserError(f"--panels={name} is no option of the run in {path}; choose one of its own.")
    groups.setdefault(f"{name} = {saved[name]}", []).append(path)
  return groups


def _range(rows: Sequence[Row]) -> list[str]:
  """Returns the lowest value, the mean and the highest value as texts."""
  values = [row["value"] for row in rows if not np.isnan(row["value"])] or [np.nan]
  return [f"{value:.4g}" for value in (min(values), np.mean(values), max(values))]


def _folder(output: str | None) -> Path:
  """Returns the folder of the results, which is new or empty."""
  if output is None:
    return app.unused(Path("diagnostics"))
  folder = Path(output).expanduser()
  if folder.exists() and (not folder.is_dir() or os.listdir(folder)):
    raise UserError(f"--output={output} is no empty folder; pass a new one.")
  return folder


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run_plain(main, DiagnosticsFlags, __doc__, positional=True)
