"""What a run shows: its start, its pictures and its end."""

from typing import Any

import jax
import numpy as np
import optax

from fedjax_norm import models
from fedjax_norm.algorithms.ledger import Cost
from fedjax_norm.cli import communication_table
from fedjax_norm.cli.config import Config
from fedjax_norm.data.federated import label_counts
from fedjax_norm.evaluation.measures import MEASURES, measures_of
from fedjax_norm.plots import base, clients, curves, diagnostics
from fedjax_norm.training.outcome import Outcome
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task import constant_baseline, data_notes
from fedjax_norm.training.task.task import Task
from fedjax_norm.training.terminal.tables import human_bytes, human_seconds, summary_table

# Of the figures at the end those that not every run has: the name, the title, and the text.
_OWN_TESTS = (
  ("accuracy_loss", "accuracy loss", "{accuracy_loss:.2%} at the last look"),
  ("theta", "theta at the end", "{theta:g}"),
  ("clients_top1", "own labels, top-1", "mean {clients_top1:.2%}, least {clients_top1_min:.2%}"),
  ("personal_top1", "fine-tuned", "mean {personal_top1:.2%}, least {personal_top1_min:.2%}"),
)

# Natural clients, or classes of pixels, that are named, at the most.
_MOST_NAMES = 20


def announce(config: Config, task: Task, program: Program) -> None:
  """Prints what is about to run."""
  sizes = np.asarray(task.data.sizes)
  variables = jax.eval_shape(lambda: models.init(task.model, jax.random.key(0), task.image_shape))
  algorithm = next(iter(program.phases.values())).algorithm
  cost, size = algorithm.cost, optax.tree.size(variables["params"])
  pairs = [
    ("data", f"{config.data}: {sizes.sum():,} training, {len(task.source.test.labels):,} test"),
    ("images", data_notes.describe_images(task)),
    ("classes", f"{task.num_classes:,}"),
    (
      "clients",
      f"{len(sizes):,} by {config.partition}, {sizes.min():,} to {sizes.max():,} examples each",
    ),
    *_clients(config, task),
    *(("note", note) for note in data_notes.collect_notes(task)),
    *_targets(task),
    ("model", f"{config.model_name}, {config.norm}, {size:,} parameters"),
    *_round(cost, by_need=algorithm.sent is not None),
    *_lockstep(cost),
    *_theta(program),
    *algorithm.report.summary(),
    ("mapping", program.nodes.describe()),
    ("memory", f"images of {human_bytes(task.data.images.nbytes)}, kept on the {program.data_on}"),
    *([("simulated network", config.network)] if config.network else []),
  ]
  print(summary_table(config.algorithm, pairs), flush=True)


def _clients(config: Config, task: Task) -> list[tuple[str, str]]:
  """The names of a few natural clients, or a note that the partition ignores them."""
  owners, names = task.source.train.clients, task.source.client_names
  if owners is None or names is None:
    return []
  present = np.unique(owners)
  if config.partition != "natural":
    note = (
      f"--partition={config.partition} ignores the {len(present):,} clients that the data names"
    )
    return [("note", f"{note}; --partition=natural trains these")]
  if len(present) > _MOST_NAMES:
    return []
  return [("who", ", ".join(names[k] for k in present))]


def _targets(task: Task) -> list[tuple[str, str]]:
  """What is learnt where that is not the classes."""
  names = task.source.target_names
  return [(task.kind, f"of {', '.join(names)}")] if names else []


def tell_resumed(folder: RunFolder, rounds: int) -> None:
  """Says that a folder holds a run already, and how much of it."""
  if not (folder.resumed and (rows := folder.rows())):
    return
  last = rows[-1]["round"]
  if last == rounds:
    print(f"note: {folder.path} holds this run to its end; nothing is trained again.", flush=True)
  else:
    print(
      f"note: {folder.path} holds this run up to round {last:,}; it goes on from its last "
      "checkpoint.",
      flush=True,
    )


def draw_start(folder: RunFolder, task: Task, title: str) -> None:
  """Draws who holds what."""
  population = task.data.num_clients
  counts = label_counts(task.data, clients.shown_clients(population), task.num_classes)
  figure = clients.partition_figure(counts, task.source.class_names, title, population)
  base.save(figure, folder.path / "partition.png")


def tell_communication(folder: RunFolder, config: Config, task: Task) -> None:
  """Prints, and keeps, what an epoch of the model would send under each norm."""
  workers = task.data.num_clients
  steps = -(-int(task.data.sizes.sum()) // (workers * config.batch_size))
  entries = communication_table.epoch_table(
    config.model, task.image_shape, task.num_outputs, workers, steps, config.stem
  )
  communication_table.write(entries, folder.path / "communication.csv")
  print(communication_table.table(entries), flush=True)


def write_clients(folder: RunFolder, program: Program, outcome: Outcome) -> None:
  """Writes what each client sent and computed, where the algorithm counts it."""
  client_rows = next(iter(program.phases.values())).algorithm.report.client_rows
  if client_rows:
    write_table(folder.path / "clients.csv", client_rows(outcome.clients.arrays))


def draw_end(folder: RunFolder, outcome: Outcome, title: str) -> None:
  """Draws what was learnt."""
  figure = curves.learning_curves_figure(outcome.rows, title, outcome.frozen_at)
  base.save(figure, folder.path / "learning_curves.png")
  diagnostics.diagnostics(outcome.diagnostics, outcome.rows, folder.path / "diagnostics.png", title)
  if outcome.client_accuracies:
    ids, accuracies = map(np.array, zip(*outcome.client_accuracies.items(), strict=True))
    figure = clients.client_accuracy_figure(accuracies, title, ids)
    base.save(figure, folder.path / "clients.png")


def print_end(folder: RunFolder, summary: dict[str, Any]) -> None:
  """Prints the figures of one run."""
  pairs = [
    *_tested(summary),
    ("test loss", f"{summary['loss']:.4f}" if summary["loss"] < 1e6 else f"{summary['loss']:.3g}"),
    ("rounds", f"{summary['rounds']:,}"),
  ]
  if "frozen_at" in summary:
    pairs.append(("frozen at round", f"{summary['frozen_at']:,}"))
  name, measure = next(iter(measures_of(summary).items()))
  if f"models_{name}" in summary:
    mean, least = (measure.format(summary[f"models_{name}{end}"]) for end in ("", "_min"))
    pairs.append((f"own models, {MEASURES[name].title}", f"mean {mean}, least {least}"))
  if "member0_top1" in summary:
    each = [f"{summary[name]:.2%}" for name in summary if name.startswith("member")]
    pairs.append(("members alone, top-1", ", ".join(each)))
  pairs += [(title, text.format(**summary)) for n, title, text in _OWN_TESTS if n in summary]
  pairs += [
    ("sent up, down", f"{human_bytes(summary['bytes_up'])}, {human_bytes(summary['bytes_down'])}"),
    ("round trips", f"{summary['round_trips']:,}"),
    *_effort(summary),
    ("time", human_seconds(summary["seconds"])),
    *_simulated(summary),
    ("folder", str(folder.path)),
  ]
  if summary["no_better_than_guessing"]:
    advice = "try a lower --lr or more rounds"
    if "frozen_at" in summary:  # the network is no longer normalized by its batches
      advice = "try a lower --lr, or --freeze_lr_factor=0.2 --freeze_clip_norm=1"
    pairs.append(("warning", f"{constant_baseline.WARNING}; {advice}"))
  print(summary_table("result", pairs), flush=True)


def _tested(summary: dict[str, Any]) -> list[tuple[str, str]]:
  """The measures of the run's task."""
  pairs = [
    (measure.title, measure.format(summary[n])) for n, measure in measures_of(summary).items()
  ]
  if "threshold" in summary:
    title, told = pairs[0]
    error = f"{summary['verification_error']:.2%}"
    return [(title, f"{told} ± {error}"), ("threshold", f"{summary['threshold']:.4f}")]
  by_class = {n.removeprefix("iou_"): summary[n] for n in summary if n.startswith("iou_")}
  if 0 < len(by_class) <= _MOST_NAMES:
    pairs.append(("IoU by class", ", ".join(f"{n} {value:.1%}" for n, value in by_class.items())))
  return pairs


def _round(cost: Cost, by_need: bool) -> list[tuple[str, str]]:
  """What a client sends and receives, where it does not depend on what it learns."""
  sent = f"{human_bytes(cost.up)} up and {human_bytes(cost.down)} down a client"
  if not by_need:
    return [("a round", sent)]
  also = f", and {sent}" if cost.up or cost.down else ""
  return [("a round", f"what the algorithm shares{also}")]


def _effort(summary: dict[str, Any]) -> list[tuple[str, str]]:
  """What clients and others computed, where that is told apart."""
  if "client_flops" not in summary:
    return []
  told = ", ".join(
    f"{who} {summary[f'{who}_flops']:.3g}"
    for who in ("client", "server", "relay")
    if f"{who}_flops" in summary
  )
  pairs = [("FLOPs of training", told)]
  if "relay_bytes" in summary:
    pairs.append(("sent between relays", human_bytes(summary["relay_bytes"])))
  if "reconstruction" in summary:
    pairs.append(("autoencoder's loss", f"{summary['reconstruction']:.4f}"))
  return pairs


def _theta(program: Program) -> list[tuple[str, str]]:
  dial = program.theta_schedule
  if dial is None:
    return []
  if scout := dial.scout:
    search, every = scout.config.skewscout, scout.config.scout_every
    if scout.searches:
      grid = ", ".join(f"{theta:g}" for theta in scout.grid)
      return [("theta", f"SkewScout's ({search}), of {grid}; a look every {every}")]
    return [("accuracy loss", f"measured every {every} rounds")]
  first, last = dial.values[0], dial.values[-1]
  text = f"{first:g}" if first == last else f"{first:g} to {last:g}"
  return [("theta", f"{text}{', falling with the rate' if dial.follows_rate else ''}")]


def _lockstep(cost: Cost) -> list[tuple[str, str]]:
  """What all wait for within a round, and its bytes where every step has the same."""
  if not cost.step_trips:
    return []
  trips = f"{cost.step_trips} round trip{'s' if cost.step_trips > 1 else ''}"
  if not cost.step_up and not cost.step_down:  # of activations, which the algorithm tells itself
    return [("a step besides", trips)]
  up, down = human_bytes(cost.step_up), human_bytes(cost.step_down)
  return [("a step besides", f"{up} up and {down} down a client, {trips}")]


def _simulated(summary: dict[str, Any]) -> list[tuple[str, str]]:
  pairs = []
  if "simulated_seconds" in summary:
    pairs.append(("simulated time", human_seconds(summary["simulated_seconds"])))
  if "staleness_mean" in summary:
    mean, most = summary["staleness_mean"], summary["staleness_max"]
    pairs.append(("staleness", f"mean {mean:.1f} updates, most {most}"))
  return pairs
