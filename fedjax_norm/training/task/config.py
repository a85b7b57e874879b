"""The options of a task, and the function that builds the task from them."""

import dataclasses
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from fedjax_norm.data import example_order
from fedjax_norm.data.example_order import ExampleOrder
from fedjax_norm.data.examples import Source
from fedjax_norm.data.held_out import HeldOutConfig, HeldOutExamples, hold_out, move_tests
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.hidden_labels import hide_labels
from fedjax_norm.data.partitions.registry import Partition, PartitionConfig
from fedjax_norm.data.partitions.relabel import relabel
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.sources.config import DataConfig
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.pairs_file import read_pairs
from fedjax_norm.evaluation.verification import Pairs
from fedjax_norm.models.registry import ModelConfig
from fedjax_norm.norm import NormConfig
from fedjax_norm.objectives import training_objective
from fedjax_norm.split import ensemble_members
from fedjax_norm.training.task.task import Task, make_task


@dataclasses.dataclass(frozen=True)
class TaskConfig(
  NormConfig, ModelConfig, ExampleOrder, Preprocess, HeldOutConfig, PartitionConfig, DataConfig
):
  """Options of the data, partition, preprocessing, example order, model and normalization."""


C = TypeVar("C", bound=TaskConfig)


def resolve(config: C, labels: np.ndarray, owners: np.ndarray | None) -> C:
  """Returns the options, in which values that follow from the data replace unset options.

  ``labels`` [N] are those of the training examples; ``owners`` [N] are the clients of the examples,
  or None if the data names no clients.

  Raises:
    UserError: the partition does not fit the data (see ``data.partitions.registry.resolve``).
  """
  config = partitions.resolve(config, labels, owners)
  if config.partition != "feature" or config.feature_shift is not None:
    return config
  return dataclasses.replace(config, feature_shift="noise")


class Division(NamedTuple):
  """The data of a run, and which client has which training example.

  Attributes:
    source: the data, without held-out examples.
    partition: division of the training examples over the clients.
    held_out: the examples that were held out, if any.
  """

  source: Source
  partition: Partition
  held_out: HeldOutExamples | None


def divide(config: TaskConfig, source: Source, partition: Partition, seed: int) -> Division:
  """Holds out examples of a partition as the options say.

  Raises:
    UserError: the run has several processes, or ``held_out.hold_out`` or ``held_out.move_tests``
      raises.
  """
  if not config.holds_out:
    return Division(source, partition, None)
  name = "unseen_clients" if config.unseen_clients else "validation_share"
  if jax.process_count() > 1:
    raise UserError(f"--{name} needs a single process; drop it or --num_processes.")
  if config.task == "verification":
    raise UserError(
      f"--{name} holds out examples of the training classes, but verification tests on pairs of "
      f"other classes; drop --{name}."
    )
  if config.unseen_clients and config.task != "classification":
    raise UserError(
      f"--unseen_clients reports an accuracy, and --task is {config.task}; drop --unseen_clients."
    )
  names = source.client_names
  train, kept, held_out = hold_out(source.train, partition, config, seed, names)
  test, held_out = move_tests(source.test, held_out)
  return Division(source._replace(train=train, test=test), kept, held_out)


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
  held_out: HeldOutExamples | None = None,
) -> Task:
  """Builds the task that the options describe.

  Args:
    config: the resolved options.
    source: the data source.
    division: partition of the training examples over clients.
    seed: seed of the relabelling and of the choice of hidden labels.
    rounds: number of rounds of the run.
    steps: local steps per round, one number or one per client [K]; needed for ``drift``.
    statistics: mean and standard deviation of each channel; None computes them from the source.
    members: models of an ensemble, as in ``--members``; None for a single model.
    labelled: share of the labels that clients know; None is all.
    held_out: the examples that were held out of ``source``, if any.

  Raises:
    UserError: an option changes class labels and the task has none, the file of ``pairs`` does not
      fit the data, or ``make_task`` raises.
  """
  objective = training_objective(config.task)
  if objective != "classification":
    for name, value in (("relabelled", config.relabelled), ("labelled", labelled)):
      if value is not None:
        raise UserError(f"--{name} changes classes, and --task is {config.task}; drop --{name}.")
  if config.relabelled is not None:
    train, classes = source.train, len(source.class_names)
    labels = relabel(train.labels, division, classes, config.relabelled, seed)
    source = source._replace(train=train._replace(labels=labels))
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
    pairs=_given_pairs(config),
    order=config,
    span=example_order.steps_per_stretch(config, rounds, steps),
    objective=objective,
    members=ensemble_members.parse_members(members, norm),
    held_out=held_out,
  )
  if labelled is None or labelled == 1:
    return task
  # Only the training targets are hidden; the partition uses the true classes.
  known = hide_labels(task.data.labels, division, labelled, seed)
  return task._replace(data=task.data._replace(targets=known))


def _given_pairs(config: TaskConfig) -> Pairs | None:
  """Returns the pairs of test images in the file ``--pairs``; None without this option."""
  if config.pairs is None:
    return None
  _, images, _ = sources.file_paths(
    config.data, region=config.region, min_region_size=config.min_region_size
  )
  if not images:
    raise UserError(
      f"--pairs names image files, and --data={config.data} has none; use folder: or csv: data, or "
      "drop --pairs."
    )
  return read_pairs(config.pairs, images)
