"""The table of a run's settings that is printed before training."""

import jax
import numpy as np

from fedjax_norm import models
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.cli.config import Config
from fedjax_norm.data.partitions.registry import OPTIONS
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.task import data_notes
from fedjax_norm.training.task.task import Task
from fedjax_norm.training.terminal.tables import human_bytes, summary_table

# Names of natural clients are printed if there are at most this many.
_MOST_NAMES = 20


def print_start(config: Config, task: Task, program: Program) -> None:
  """Prints the data, the model and other settings of a run before training."""
  variables = jax.eval_shape(lambda: models.init(task.model, jax.random.key(0), task.image_shape))
  targets = task.source.target_names
  algorithm = next(iter(program.phases.values())).algorithm
  cost, size = algorithm.cost, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  pairs = [
    *data_rows(config, task),
    *([(f"{task.kind} targets", ", ".join(targets))] if targets else []),
    ("model", f"{config.model_name}, {config.norm}, {size:,} parameters"),
    *_round_bytes(cost, sparse=algorithm.sent is not None),
    *_step_bytes(cost),
    *_theta(program),
    *algorithm.report.summary(),
    (
      "mapping",
      program.mapping.describe(program.unequal_steps, config.cohort_of(task.data.num_clients)),
    ),
    ("images in memory", f"{human_bytes(task.data.images.nbytes)} on the {program.data_on}"),
    *([("simulated network", config.network)] if config.network else []),
  ]
  print(summary_table(config.algorithm, pairs), flush=True)


def data_rows(config: Config, task: Task) -> list[tuple[str, str]]:
  """Returns what the data and the clients are, and notes on what was decided for the user."""
  sizes = np.asarray(task.data.sizes)
  return [
    ("data", f"{config.data}: {_count_examples(task)}"),
    ("images", data_notes.describe_images(task)),
    ("classes", f"{task.num_classes:,}"),
    (
      "clients",
      f"{len(sizes):,} ({partition_text(config)}) with {sizes.min():,} to {sizes.max():,} examples "
      "each",
    ),
    *_clients(config, task),
    *drift_rows(config),
    *(("note", note) for note in data_notes.collect_notes(task)),
  ]


def _count_examples(task: Task) -> str:
  """Returns the number of examples of each kind."""
  counts = [f"{task.data.sizes.sum():,} training"]
  if task.validation is not None:
    counts.append(f"{len(task.validation.labels):,} validation (out of the clients' training data)")
  counts.append(f"{len(task.source.test.labels):,} test")
  if task.unseen is not None and task.unseen.clients is not None:
    clients, examples = len(np.unique(task.unseen.clients)), len(task.unseen.labels)
    counts.append(f"{examples:,} of {clients:,} unseen client{'s' if clients > 1 else ''}")
  return ", ".join(counts)


def partition_text(config: Config) -> str:
  """Returns the flags of the partition, with the values of its options."""
  values = {name: getattr(config, name) for name in ("partition", *OPTIONS[config.partition or ""])}
  values.pop("clients", None)
  if config.partition == "feature":
    values |= {"feature_shift": config.feature_shift, "feature_scale": config.feature_scale}
  values["relabelled"] = config.relabelled
  flags = {n: "" if value is True else f"={value}" for n, value in values.items()}
  return " ".join(f"--{n}{text}" for n, text in flags.items() if text not in ("=None", "=False"))


def drift_rows(config: Config) -> list[tuple[str, str]]:
  """Returns which part of its examples a client trains on over the rounds, if that changes."""
  if config.drift == "none":
    return []
  change = "gain another one" if config.drift_keeps else "change to the next one"
  text = f"clients have one of {config.drift_stretches} stretches by {config.drift}, and {change}"
  text += f" every {config.drift_rounds:,} rounds"
  return [("concept drift", text)]


def _clients(config: Config, task: Task) -> list[tuple[str, str]]:
  """Returns the natural clients' names (unless they are many), or a note if they are not used."""
  owners, names = task.source.train.clients, task.source.client_names
  if owners is None or names is None:
    return []
  present = np.unique(owners)
  if config.partition != "natural":
    note = (
      f"--partition={config.partition} ignores the {len(present):,} clients that the data names"
    )
    return [("note", f"{note}; --partition=natural uses them")]
  if len(present) > _MOST_NAMES:
    return []
  trained = [("client names", ", ".join(names[k] for k in present))]
  unseen = (task.client_names or ())[len(present) :]
  return trained + ([("unseen clients", ", ".join(unseen))] if unseen else [])


def _round_bytes(cost: Cost, sparse: bool) -> list[tuple[str, str]]:
  """Returns a client's bytes per round; ``sparse`` updates add bytes that are known only later."""
  fixed = f"{human_bytes(cost.up)} up and {human_bytes(cost.down)} down per client"
  if not sparse:
    return [("bytes per round", fixed)]
  also = f", and {fixed}" if cost.up or cost.down else ""
  return [("bytes per round", f"depend on the updates{also}")]


def _step_bytes(cost: Cost) -> list[tuple[str, str]]:
  """Returns the bytes and round trips of a local step, which are added to those of a round."""
  if not cost.step_trips:
    return []
  trips = f"{cost.step_trips} round trip{'s' if cost.step_trips > 1 else ''}"
  if not cost.step_up and not cost.step_down:  # split learning lists its bytes in another row
    return [("also per step", trips)]
  up, down = human_bytes(cost.step_up), human_bytes(cost.step_down)
  return [("also per step", f"{up} up and {down} down per client, {trips}")]


def _theta(program: Program) -> list[tuple[str, str]]:
  """Returns the values of theta, which sets how much a decentralized algorithm communicates."""
  theta_schedule = program.theta_schedule
  if theta_schedule is None:
    return []
  if scout := theta_schedule.scout:
    search, every = scout.config.skewscout, scout.config.scout_every
    if scout.searches:
      grid = ", ".join(f"{theta:g}" for theta in scout.grid)
      return [("theta", f"SkewScout ({search}) chooses from {grid} every {every} rounds")]
    return [("accuracy loss", f"measured every {every} rounds")]
  first, last = theta_schedule.values[0], theta_schedule.values[-1]
  text = f"{first:g}" if first == last else f"{first:g} to {last:g}"
  scaled = ", scaled with the learning rate" if theta_schedule.follows_rate else ""
  return [("theta", f"{text}{scaled}")]
