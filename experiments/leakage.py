"""What a model would leak at each cut: ``python -m experiments.leakage --workdir=runs/NAME``.

For every stage behind which the model can be cut: how far the activations depend on the images
(distance correlation), what an attacker makes of them who has test images of his own and trains a
decoder, and which labels Bob reads off the gradients that a tail of the stages behind the cut sends
him in the U-shape (paper 003, sec. 3.6). ``leakage.csv`` and ``leakage.png`` go to the run's
folder. Without ``--workdir`` it is the untrained model that the flags say.
"""

import contextlib
from pathlib import Path

from experiments import app
from experiments.finished import check_one_model, told
from experiments.leakage_flags import LeakageFlags
from experiments.training import load, settler
from fedjax_norm.errors import UserError
from fedjax_norm.training import leakage, leakage_plots
from fedjax_norm.training.lock import locked
from fedjax_norm.training.programs import initial_variables
from fedjax_norm.training.restore import load_run
from fedjax_norm.training.rows import write_table
from fedjax_norm.training.table import columns_table
from fedjax_norm.training.task import Task
from fedjax_norm.typing import Variables

_COLUMNS = {
  "cut": "cut after",
  "shape": "shape",
  "distance_correlation_corrected": "dependence",
  "reconstruction_error": "image error",
  "ssim": "SSIM",
  "labels_by_known": "labels, some known",
  "labels_by_clusters": "none known",
  "labels_chance": "chance",
}


def main(config: LeakageFlags) -> None:
  """Measures, prints a table and writes the files."""
  task, variables, title = _of_run(config) if config.workdir else _of_flags(config)
  folder = app.new_folder(config)
  with locked(folder, config.wait_for_workdir) if config.workdir else contextlib.nullcontext():
    _measure(config, task, variables, title, folder)


def _measure(
  config: LeakageFlags, task: Task, variables: Variables, title: str, folder: Path
) -> None:
  """Measures a model and writes what came out; a run's folder is locked."""
  measured = leakage.measure(task, variables, config)
  head = {name: text for name, text in _COLUMNS.items() if name in measured.rows[0]}
  rows = [[_cell(row[name]) for name in head] for row in measured.rows]
  print(columns_table(list(head.values()), rows))
  print(
    f"{measured.victims:,} test images attacked with {measured.auxiliary:,} others; an image error "
    "of 1 is that of their mean"
  )
  folder.mkdir(parents=True, exist_ok=True)
  stem = "leakage_untrained" if config.untrained else "leakage"
  write_table(folder / f"{stem}.csv", measured.rows)
  leakage_plots.leakage(measured, folder / f"{stem}.png", title)
  print(f"written: {folder / stem}.csv, {folder / stem}.png")


def _of_flags(config: LeakageFlags) -> tuple[Task, Variables, str]:
  """The untrained model that the flags say."""
  _, task = settler(load(config))(config)
  title = f"{config.data}, {config.model}, {config.norm}, untrained"
  return task, initial_variables(task, config.seed), title


def _of_run(config: LeakageFlags) -> tuple[Task, Variables, str]:
  """The model of a finished run, or the one that it began with."""
  path = config.workdir or ""
  saved, variables = load_run(path)
  one = told(saved)
  if one.members is not None:
    raise UserError("the run is of an ensemble, which has no model of its own; pass another run.")
  _, task = settler(load(one))(one)
  title = f"{one.data}, {one.model}, {one.norm}, {saved['algorithm']}"
  if config.untrained:
    return task, initial_variables(task, one.seed), f"{title}, untrained"
  check_one_model(saved, task, path)
  return task, variables, title


def _cell(value: str | float) -> str:
  return value if isinstance(value, str) else f"{value:.3f}"


if __name__ == "__main__":
  app.run(main, LeakageFlags)
