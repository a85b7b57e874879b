"""Loads the options, the task and the cut model of a finished run from its folder."""

import dataclasses
from typing import Any, NamedTuple

from fedjax_norm import options
from fedjax_norm.algorithms.periodic_averaging import PERIODIC
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli import flags
from fedjax_norm.cli.config import FILES, Config, config_of
from fedjax_norm.cli.split_options import ALGORITHM, SplitFlags
from fedjax_norm.cli.train import load, prepare
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged
from fedjax_norm.split.by_messages.inference import CutModel
from fedjax_norm.split.plan import divide, make_plan, segment_shapes
from fedjax_norm.training.build_program import images_of
from fedjax_norm.training.finished_run import check_single_model, load_run
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Variables


class SplitRun(NamedTuple):
  """A finished run of split learning: its options, its task, and its final model, whole and cut."""

  flags: SplitFlags
  task: Task
  variables: Variables
  cut_model: CutModel


def config_class(saved: dict[str, Any]) -> type[Config]:
  """Returns the class of a run's options from ``saved``, the content of its ``config.json``."""
  name = saved.get("algorithm", "")
  if name in ALGORITHM.configs:
    return ALGORITHM.configs[name]
  if name == "fedavg" and "skewscout" in saved:  # the name in experiments.decentralized
    name = PERIODIC.name
  return config_of(METHODS[name]) if name in METHODS else Config


def saved_options(saved: dict[str, Any]) -> Config:
  """Returns the options of one seed of a run from ``saved``, the content of its ``config.json``.

  The number of seeds is 1; the numbers of processes and devices, and ``FILES``, are unset.
  """
  config_type = config_class(saved)
  known = {one.name: one for one in options.of(config_type) if one.name not in FILES}
  # Older versions saved None for defaults, and texts for options that are numbers now.
  values = {k: v for k, v in options.from_json(saved).items() if k in known and v is not None}
  texts = {k: flags.parse_value(known[k], v) for k, v in values.items() if isinstance(v, str)}
  config = config_type(**{**values, **texts})
  return dataclasses.replace(config, seeds=1, num_processes=None, host_devices=None)


def load_split(path: str) -> SplitRun:
  """Loads a finished run of ``experiments.split`` from the folder of one seed.

  Raises:
    UserError: the folder has no such run, its data cannot be loaded, or it has no single model.
  """
  finished = load_run(path)
  saved, variables = finished.config, finished.variables
  if saved.get("algorithm") not in ALGORITHM.configs:
    raise UserError(
      f"the run in {path} used {saved.get('algorithm')}, which does not cut the model; pass the "
      "folder of a run of experiments.split."
    )
  flags = saved_options(saved)
  config, task = prepare(flags, load(flags))
  image, model = images_of(task), task.model
  assert isinstance(config, SplitFlags)
  assert isinstance(model, Staged)
  check_single_model(saved, task.model.norm, path)
  plan = make_plan(model, image.shape, config.cut, config.tail, config.relay_stages)
  parts = divide(variables, segment_shapes(model, plan, image)[0])
  return SplitRun(config, task, variables, CutModel(model, plan, parts, task.eval_transform))


def check_images(run: SplitRun, shape: tuple[int, ...], data: str) -> None:
  """Checks that the model of a run can classify the images of the data set ``data``.

  Raises:
    UserError: the run's task is not classification, or its images do not have the given shape.
  """
  if run.task.kind != "classification":
    raise UserError(f"the run's task is {run.task.kind}; pass a run with task classification.")
  if shape != run.task.image_shape:
    given, needed = ("x".join(map(str, size)) for size in (shape, run.task.image_shape))
    raise UserError(
      f"the images of {data} are {given}, but the model of the run needs {needed}; give other "
      "--data or resize the images by --image_size."
    )
