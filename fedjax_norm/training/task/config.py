"""The options of a task: its data, clients, images, order, model and norm; and the task itself."""

import dataclasses
from typing import TypeVar

import numpy as np

from fedjax_norm.data import example_order
from fedjax_norm.data.example_order import ExampleOrder
from fedjax_norm.data.examples import Source
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.hidden_labels import hide_labels
from fedjax_norm.data.partitions.registry import Partition, PartitionConfig
from fedjax_norm.data.partitions.relabel import relabel
from fedjax_norm.data.sources.registry import DataConfig
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.errors import UserError
from fedjax_norm.models.registry import ModelConfig
from fedjax_norm.norm import NormConfig
from fedjax_norm.objectives import trained_by
from fedjax_norm.split import ensemble_members
from fedjax_norm.training.task.task import Task, make_task


@dataclasses.dataclass(frozen=True)
class TaskConfig(NormConfig, ModelConfig, ExampleOrder, Preprocess, PartitionConfig, DataConfig):
  """The data, its partition over clients, its images and their order, the model and its norm."""


C = TypeVar("C", bound=TaskConfig)


def resolve(config: C, labels: np.ndarray, owners: np.ndarray | None) -> C:
  """The configuration with the values in force that follow from the data.

  Args:
    config: the options.
    labels: [N] of the training examples.
    owners: [N] the client of each example, where the data names clients.

  Raises:
    UserError: as of ``partition.resolve``.
  """
  config = partitions.resolve(config, labels, owners)
  if config.partition != "feature" or config.feature_shift is not None:
    return config
  return dataclasses.replace(config, feature_shift="noise")


def from_config(
  config: TaskConfig,
  source: Source,
  division: Partition,
  seed: int,
  rounds: int,
  steps: int | np.ndarray = 1,
  *,
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
  members: str | None = None,
  labelled: float | None = None,
) -> Task:
  """The task that the options describe.

  Args:
    config: the options, resolved.
    source: the data.
    division: of its training examples over clients.
    seed: of the clients that label otherwise and of the labels that are hidden.
    rounds: of the run.
    steps: of a client in a round, for all clients or [K]; a drift goes by them.
    statistics: the channels' mean and deviation; None takes those of the source's images.
    members: of an ensemble, as ``ensemble_members.parse_members`` reads them.
    labelled: the share of the labels that clients know; None is all of them.

  Raises:
    UserError: as of ``make_task``, or labels that are to change where the task is not about them.
  """
  objective = trained_by(config.task)
  if objective != "classification":
    for name, given in (("relabelled", config.relabelled), ("labelled", labelled)):
      if given is not None:
        raise UserError(f"--{name} changes classes, and --task is {config.task}; drop one of them.")
  if config.relabelled is not None:
    train, classes = source.train, len(source.class_names)
    named = relabel(train.labels, division, classes, config.relabelled, seed)
    source = source._replace(train=train._replace(labels=named))
  norm = config.make_norm(rounds)
  task = make_task(
    source,
    division,
    norm,
    config.model,
    preprocess=config,
    stem=config.stem,
    statistics=statistics,
    verification=config.task == "verification",
    order=config,
    span=example_order.steps_per_stretch(config, rounds, steps),
    objective=objective,
    members=ensemble_members.parse_members(members, norm),
  )
  if labelled is None or labelled == 1:
    return task
  # Clients train on what they know; who holds what goes by the classes that the examples have.
  known = hide_labels(task.data.labels, division, labelled, seed)
  return task._replace(data=task.data._replace(targets=known))
