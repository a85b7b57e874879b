"""A finished run as its folder tells it: the flags it was told, its task and its model."""

import dataclasses
from typing import Any, NamedTuple

from fedjax_norm import options
from fedjax_norm.algorithms.periodic import PERIODIC
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli import flags
from fedjax_norm.cli.config import Config, config_of
from fedjax_norm.cli.split_options import ALGORITHM, SplitFlags
from fedjax_norm.cli.train import load, prepare
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged
from fedjax_norm.split.by_messages.inference import Served, serve
from fedjax_norm.split.plan import make_plan
from fedjax_norm.training.build_program import images_of
from fedjax_norm.training.storage.final_model import load_run
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Variables


class SplitRun(NamedTuple):
  """A finished run of split learning.

  Attributes:
    flags: what it was told.
    task: what it learnt.
    variables: of the model that it ended with.
    served: that model, cut as it was.
  """

  flags: SplitFlags
  task: Task
  variables: Variables
  served: Served


def kind_of(saved: dict[str, Any]) -> type[Config]:
  """The class of a run's options.

  Args:
    saved: its ``config.json``.
  """
  name = saved.get("algorithm", "")
  if name in ALGORITHM.configs:
    return ALGORITHM.configs[name]
  if name == "fedavg" and "skewscout" in saved:  # what experiments.decentralized calls it
    name = PERIODIC.name
  return config_of(METHODS[name]) if name in METHODS else Config


def told(saved: dict[str, Any]) -> Config:
  """The options of one seed of a run, without those of its machine and folder.

  Args:
    saved: its ``config.json``.
  """
  kind = kind_of(saved)
  known = {one.name: one for one in options.of(kind) if one.name != "network"}
  # Older versions wrote None where a default was taken, and texts where there are now numbers.
  values = {k: v for k, v in options.from_json(saved).items() if k in known and v is not None}
  texts = {k: flags.parse_value(known[k], v) for k, v in values.items() if isinstance(v, str)}
  given = kind(**{**values, **texts})
  return dataclasses.replace(given, seeds=1, num_processes=None, host_devices=None)


def check_one_model(saved: dict[str, Any], task: Task, path: str) -> None:
  """Refuses a run of which the saved model is untrained where clients have parts of their own.

  Args:
    saved: its ``config.json``.
    task: what it learnt.
    path: its folder.

  Raises:
    UserError: the clients have kept their running statistics, or with FedBN their norms.
  """
  if "skewscout" in saved and saved["algorithm"] != "bsp":
    return  # of the partitions of experiments.decentralized, the mean of all is saved
  kept = saved.get("batch_stats") == "local" or saved.get("fedbn")
  if kept and task.model.norm.has_running_statistics:
    raise UserError(
      f"in the run in {path} each client has kept its own running statistics (--batch_stats=local "
      "or --fedbn), so there is no one model; pass a run with another --batch_stats."
    )


def load_split(path: str) -> SplitRun:
  """A finished run of ``experiments.split``.

  Args:
    path: its folder, of one seed.

  Raises:
    UserError: there is none, or its data is not there any more.
  """
  saved, variables = load_run(path)
  if saved.get("algorithm") not in ALGORITHM.configs:
    raise UserError(
      f"the run in {path} is of {saved.get('algorithm')}, whose model nobody has cut; pass the "
      "folder of a run of experiments.split."
    )
  flags = told(saved)
  settled, task = prepare(flags, load(flags))
  image, model = images_of(task), task.model
  assert isinstance(settled, SplitFlags)
  assert isinstance(model, Staged)
  check_one_model(saved, task, path)
  plan = make_plan(model, image.shape, settled.cut, settled.tail, settled.relay_stages)
  served = serve(model, plan, variables, task.eval_transform, image)
  return SplitRun(settled, task, variables, served)


def check_images(run: SplitRun, shape: tuple[int, ...], data: str) -> None:
  """Refuses images that the model does not take.

  Raises:
    UserError: they are of another shape, or the model says no classes.
  """
  if run.task.kind != "classification":
    raise UserError(f"the run is of {run.task.kind}, and this is about classes; pass another run.")
  if shape != run.task.image_shape:
    theirs, own = ("x".join(map(str, size)) for size in (shape, run.task.image_shape))
    raise UserError(
      f"the images of {data} are {theirs} and the run's are {own}; give other --data, or an "
      "--image_size."
    )
