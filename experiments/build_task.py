"""From the flags to the task: the model with its norm, and how clients go through their data."""

import dataclasses
from typing import Any

import numpy as np

from experiments.algorithm_flags import AsgdFlags, TurnFlags
from experiments.build_data import make_objective, make_preprocess
from experiments.checks import at_least, given, lengths, numbers, refuse
from experiments.config import Config
from fedjax_norm import models, norm
from fedjax_norm.data import partition
from fedjax_norm.data.examples import Source
from fedjax_norm.data.order import Order
from fedjax_norm.data.partition import Partition
from fedjax_norm.data.relabel import relabel
from fedjax_norm.data.unlabelled import hide
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NormSpec, Renorm
from fedjax_norm.split.members import Choice
from fedjax_norm.training.task import Task, make_task


def make_task_of(
  config: Config,
  source: Source,
  division: Partition,
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> Task:
  """The task of one seed (see ``task.make_task``)."""
  if config.relabelled is not None:
    if make_objective(config) != "classification":
      raise UserError(f"--relabelled does nothing to the targets of {config.task}; drop it.")
    if config.evaluate_clients or config.fine_tune_steps or config.diagnostics:
      raise UserError(
        "--relabelled leaves test labels as they are, so clients cannot be tested by their own; "
        "drop it, or --evaluate_clients, --fine_tune_steps and --diagnostics."
      )
    train, classes = source.train, len(source.class_names)
    named = relabel(train.labels, division, classes, config.relabelled, config.seed)
    source = source._replace(train=train._replace(labels=named))
  task = make_task(
    source,
    division,
    make_norm(config),
    config.model,
    preprocess=make_preprocess(config),
    feature_scale=given(config.feature_scale, 1.0),
    stem=config.stem,
    statistics=statistics,
    verification=config.task == "verification",
    order=make_order(config, partition.sizes(division)),
    objective=make_objective(config),
    members=make_members(config),
  )
  labelled = getattr(config, "labelled", None)  # of split learning alone
  if labelled is None or labelled == 1:
    return task
  if make_objective(config) != "classification":
    raise UserError(f"--labelled hides classes, and --task is {config.task}; drop one of them.")
  # Clients train on what they know; who holds what goes by the classes that the examples have.
  known = hide(task.data.labels, division, labelled, config.seed)
  return task._replace(data=task.data._replace(targets=known))


def make_norm(config: Config) -> NormSpec:
  """The norm's spec; the ramps of batch renormalization are in rounds."""
  ramps = ("brn_r_max", "brn_d_max", "brn_ramp")
  options: dict[str, Any] = {"groups": config.groups, "group_size": config.group_size}
  if config.norm == "gn" and config.groups is None and config.group_size is None:
    options |= models.entry(config.model).groups
  if config.norm == "brn":
    start, d_end, r_end = (0.04, 0.2, 0.3)
    if config.brn_ramp is not None:
      fractions = numbers(config, "brn_ramp")
      if len(fractions) != 3 or not all(0 <= f <= 1 for f in fractions):
        raise UserError("--brn_ramp takes three fractions from 0 to 1: start, end of d, end of r.")
      start, d_end, r_end = fractions
      if start > min(d_end, r_end):
        raise UserError("--brn_ramp begins with the start, which cannot come after the ends.")
    options["renorm"] = Renorm(
      given(config.brn_r_max, 3.0),
      given(config.brn_d_max, 5.0),
      *(fraction * lengths(config)[0] for fraction in (start, r_end, d_end)),
    )
  else:
    refuse(config, ramps, "--norm=brn")
  spec = norm.create(
    config.norm,
    **options,
    mean_only_bn=config.mean_only_bn,
    decay=given(config.norm_decay, 0.9),
    epsilon=given(config.norm_epsilon, 1e-5),
  )
  if not spec.has_running_statistics or config.batch_stats == "recalibrate":
    refuse(config, ("norm_decay",), "running statistics that are moving averages")
  if not spec.normalizes or not spec.scale:
    refuse(config, ("norm_epsilon",), "a norm that divides by a deviation")
  return spec


def make_members(config: Config) -> tuple[Choice, ...]:
  """The members of ``--members``; none without.

  Raises:
    UserError: a text that names none, or an unknown model.
  """
  if config.members is None:
    return ()
  choices = []
  for text in config.members.split(","):
    model, *cuts = (part.strip() for part in text.split(":"))
    if not 1 <= len(cuts) <= 2 or not all(cuts):
      raise UserError(
        f"--members has {text!r}; write each member as MODEL:CUT, or MODEL:CUT:TAIL in the U-shape."
      )
    models.entry(model)  # refuses one that is unknown
    norm = make_norm(dataclasses.replace(config, model=model))
    choices.append(Choice(model, norm, *cuts))
  return tuple(choices)


def make_order(config: Config, sizes: np.ndarray) -> Order:
  """How clients go through their examples.

  Args:
    config: the flags, lengths in rounds.
    sizes: [K] the examples of each.
  """
  if config.batch_order == "shuffled":
    refuse(config, ("order_block",), "--batch_order=label or source")
  if config.drift == "none":
    refuse(config, ("drift_stretches", "drift_rounds"), "--drift=label or source")
    return Order(config.batch_order, config.order_block)
  if isinstance(config, AsgdFlags):
    raise UserError("a round of asgd is one worker's, so --drift has no rounds to go by; drop it.")
  stretches = given(config.drift_stretches, 2)
  at_least(config, 2, "drift_stretches")
  at_least(config, 1, "drift_rounds")
  whole = lengths(config)[0]
  rounds = min(given(config.drift_rounds, -(-whole // stretches)), whole)
  steps: int | np.ndarray = 1
  if isinstance(config, TurnFlags):
    epochs = config.local_epochs
    steps = epochs * -(-sizes // config.batch_size) if epochs else given(config.local_steps, 1)
  return Order(config.batch_order, config.order_block, config.drift, stretches, rounds * steps)
