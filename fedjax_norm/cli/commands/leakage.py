"""Measures the leakage at each cut: ``python -m experiments.leakage --workdir=runs/NAME``.

For every possible cut of the model it measures how much the activations depend on the images
(distance correlation), how well an attacker's decoder reconstructs images from activations, and how
well the server can infer labels from the gradients that it receives in the U-shape (paper 003, sec.
3.6). It writes ``leakage.csv`` and ``leakage.png`` to the run's folder. Without ``--workdir`` it
measures the untrained model that the other flags choose.
"""

import contextlib
import dataclasses

from fedjax_norm import options
from fedjax_norm.cli import app
from fedjax_norm.cli.config import Config, all_but
from fedjax_norm.cli.finished_run import saved_options
from fedjax_norm.cli.train import load, prepare
from fedjax_norm.data.partitions.registry import PartitionConfig
from fedjax_norm.data.sources.config import DataConfig
from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.plots import leakage
from fedjax_norm.training import cut_leakage
from fedjax_norm.training.cut_leakage import LeakageConfig
from fedjax_norm.training.finished_run import check_single_model, load_run
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.lock import locked
from fedjax_norm.training.task.task import Task
from fedjax_norm.training.terminal.tables import columns_table
from fedjax_norm.typing import Variables

MODEL_OPTIONS = (
  *(
    one.name
    for kind in (DataConfig, PartitionConfig)
    for one in options.of(kind)
    if one.name not in ("train_share", "relabelled")
  ),
  "task", "standardise", "whiten", "zca_epsilon", "subtract", "model", "stem", "norm", "groups",
  "group_size", "mean_only_bn", "norm_epsilon", "compute_dtype",
)  # fmt: skip
"""The options that choose the model and the data if --workdir is not given."""


@dataclasses.dataclass(frozen=True)
class LeakageFlags(LeakageConfig, Config):
  """Options of ``experiments.leakage``."""

  group = "leakage"
  algorithm = "leakage"
  hidden = all_but(*MODEL_OPTIONS, "seed", "workdir", "wait_for_workdir", "compilation_cache",
                   "progress", "host_devices")  # fmt: skip

  untrained: bool = option(
    False, "Measures the initial model of the run in --workdir instead of its final model."
  )

  def check(self) -> None:
    """Raises ``UserError`` for options that have no effect with --workdir, or without it."""
    if self.workdir is None and self.untrained:
      raise UserError(
        "--untrained does nothing here: without --workdir the model is untrained anyway; drop it."
      )
    for one in options.of(type(self)) if self.workdir else ():
      if one.name in MODEL_OPTIONS and getattr(self, one.name) != one.default:
        raise UserError(
          f"--{one.name} does nothing here: the run in --workdir sets model and data; drop it."
        )


_COLUMNS = {
  "cut": "cut after",
  "shape": "shape",
  "distance_correlation_corrected": "dependence",
  "reconstruction_error": "image error",
  "ssim": "SSIM",
  "labels_by_known": "labels, some known",
  "labels_by_clusters": "no labels known",
  "labels_chance": "chance",
}


def main(config: LeakageFlags) -> None:
  """Measures the leakage at each cut, prints a table, and writes a CSV file and a figure."""
  task, variables, title = _of_run(config) if config.workdir else _of_flags(config)
  folder = app.new_folder(config)
  with locked(folder, config.wait_for_workdir) if config.workdir else contextlib.nullcontext():
    measured = cut_leakage.measure(task, variables, config)
    head = {name: text for name, text in _COLUMNS.items() if name in measured.rows[0]}
    values = [[row[name] for name in head] for row in measured.rows]
    rows = [[v if isinstance(v, str) else f"{v:.3f}" for v in row] for row in values]
    print(columns_table(list(head.values()), rows))
    print(
      f"{measured.victims:,} test images were attacked with the help of {measured.auxiliary:,} "
      "others; an image error of 1 is that of the others' mean image"
    )
    folder.mkdir(parents=True, exist_ok=True)
    stem = "leakage_untrained" if config.untrained else "leakage"
    write_table(folder / f"{stem}.csv", measured.rows)
    leakage.leakage(measured, folder / f"{stem}.png", title)
    print(f"written: {folder / stem}.csv, {folder / stem}.png")


def _of_flags(config: LeakageFlags) -> tuple[Task, Variables, str]:
  """Returns (task, initial variables, title of the figure) of the model that the options choose."""
  _, task = prepare(config, load(config))
  title = f"{config.data}, {config.model}, {config.norm}, untrained"
  return task, initial_variables(task, config.seed), title


def _of_run(config: LeakageFlags) -> tuple[Task, Variables, str]:
  """Returns (task, final or initial variables, title of the figure) of the run in --workdir."""
  path = config.workdir or ""
  finished = load_run(path)
  saved, variables = finished.config, finished.variables
  one = saved_options(saved)
  if one.members is not None:
    raise UserError("the run trained an ensemble, not a single model; pass another --workdir.")
  _, task = prepare(one, load(one))
  title = f"{one.data}, {one.model}, {one.norm}, {saved['algorithm']}"
  if config.untrained:
    return task, initial_variables(task, one.seed), f"{title}, untrained"
  check_single_model(saved, task.model.norm, path)
  return task, variables, title


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(main, LeakageFlags, __doc__)
