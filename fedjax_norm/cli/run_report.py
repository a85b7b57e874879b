"""The report of a run: printed tables, pictures, and CSV files about clients and communication."""

from typing import Any

import jax
import numpy as np

from fedjax_norm import models
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.cli import communication_table
from fedjax_norm.cli.config import Config
from fedjax_norm.data.federated import label_counts
from fedjax_norm.evaluation.measures import MEASURES, measures_of
from fedjax_norm.plots import base, clients, confusion, curves, diagnostics
from fedjax_norm.training.outcome import Outcome
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task import constant_baseline, data_notes
from fedjax_norm.training.task.task import Task
from fedjax_norm.training.terminal.tables import human_bytes, human_seconds, summary_table

# Results that only some runs have: key in ``summary.json``, title, text.
_OPTIONAL_RESULTS = (
  ("accuracy_loss", "accuracy loss", "{accuracy_loss:.2%} at the last measurement"),
  ("theta", "final theta", "{theta:g}"),
  ("clients_top1", "clients, top-1", "mean {clients_top1:.2%}, min {clients_top1_min:.2%}"),
  ("unseen_top1", "unseen clients, top-1", "mean {unseen_top1:.2%}, min {unseen_top1_min:.2%}"),
  ("personal_top1", "fine-tuned, top-1", "mean {personal_top1:.2%}, min {personal_top1_min:.2%}"),
)

# Names of natural clients, or of classes of pixels, are printed if there are at most this many.
_MOST_NAMES = 20


def print_start(config: Config, task: Task, program: Program) -> None:
  """Prints the data, the model and other settings of a run before training."""
  sizes = np.asarray(task.data.sizes)
  variables = jax.eval_shape(lambda: models.init(task.model, jax.random.key(0), task.image_shape))
  targets = task.source.target_names
  algorithm = next(iter(program.phases.values())).algorithm
  cost, size = algorithm.cost, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  pairs = [
    ("data", f"{config.data}: {_count_examples(task)}"),
    ("images", data_notes.describe_images(task)),
    ("classes", f"{task.num_classes:,}"),
    (
      "clients",
      f"{len(sizes):,} (--partition={config.partition}) with {sizes.min():,} to {sizes.max():,} "
      "examples each",
    ),
    *_clients(config, task),
    *(("note", note) for note in data_notes.collect_notes(task)),
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


def _count_examples(task: Task) -> str:
  """Returns the number of examples of each kind."""
  counts = [f"{task.data.sizes.sum():,} training"]
  if task.validation is not None:
    counts.append(f"{len(task.validation.labels):,} validation")
  counts.append(f"{len(task.source.test.labels):,} test")
  if task.unseen is not None and task.unseen.clients is not None:
    clients, examples = len(np.unique(task.unseen.clients)), len(task.unseen.labels)
    counts.append(f"{examples:,} of {clients:,} unseen client{'s' if clients > 1 else ''}")
  return ", ".join(counts)


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


def print_resumed(folder: RunFolder, rounds: int) -> None:
  """Prints the last recorded round of a resumed run, which has ``rounds`` rounds in all."""
  if folder.resumed and (rows := folder.rows()):
    last = rows[-1]["round"]
    state = f"has reached round {last:,} and resumes from its last checkpoint"
    state = "is complete; nothing is trained" if last == rounds else state
    print(f"note: the run in {folder.path} {state}.", flush=True)


def draw_partition(folder: RunFolder, task: Task, title: str) -> None:
  """Draws ``partition.png``: each client's number of examples of each class."""
  population = task.data.num_clients
  counts = label_counts(task.data, clients.shown_clients(population), task.num_classes)
  figure = clients.partition_figure(counts, task.source.class_names, title, population)
  base.save(figure, folder.path / "partition.png")


def print_communication(folder: RunFolder, config: Config, task: Task) -> None:
  """Prints and writes the model's bytes and round trips per epoch, under each norm."""
  workers = task.data.num_clients
  steps = -(-int(task.data.sizes.sum()) // (workers * config.batch_size))
  entries = communication_table.epoch_table(
    config.model, task.image_shape, task.num_outputs, workers, steps, config.stem
  )
  communication_table.write(entries, folder.path / "communication.csv")
  print(communication_table.table(entries), flush=True)


def write_clients(folder: RunFolder, program: Program, outcome: Outcome) -> None:
  """Writes ``clients.csv``, each client's bytes and FLOPs, if the algorithm counts them."""
  client_rows = next(iter(program.phases.values())).algorithm.report.client_rows
  if client_rows:
    write_table(folder.path / "clients.csv", client_rows(outcome.clients.arrays))


def draw_results(folder: RunFolder, outcome: Outcome, title: str) -> None:
  """Draws the learning curves, and what was measured of classes, clients and diagnostics."""
  figure = curves.learning_curves_figure(outcome.rows, title, outcome.frozen_at)
  base.save(figure, folder.path / "learning_curves.png")
  diagnostics.diagnostics(outcome.diagnostics, outcome.rows, folder.path / "diagnostics.png", title)
  if outcome.client_accuracies:
    name_of = {entry["id"]: entry["name"] for entry in outcome.details["clients"]}
    labels = np.array([name_of[k] or str(k) for k in outcome.client_accuracies])
    accuracies = np.array([*outcome.client_accuracies.values()])
    figure = clients.client_accuracy_figure(accuracies, title, labels)
    base.save(figure, folder.path / "clients.png")

  evaluation = folder.read_evaluation()
  if "confusion" in evaluation:
    names = [entry["name"] for entry in evaluation["classes"]]
    base.save(
      confusion.confusion_figure(np.array(evaluation["confusion"]), names, title),
      folder.path / "confusion.png",
    )


def print_end(folder: RunFolder, summary: dict[str, Any]) -> None:
  """Prints the results of one run, the content of ``summary.json``."""
  pairs = [
    *_test_results(summary),
    *_recall_by_class(folder),
    *_other_readings(summary),
    ("test loss", f"{summary['loss']:.4f}" if summary["loss"] < 1e6 else f"{summary['loss']:.3g}"),
    ("rounds", f"{summary['rounds']:,}"),
  ]
  if "frozen_at" in summary:
    pairs.append(("frozen at round", f"{summary['frozen_at']:,}"))
  name, measure = next(iter(measures_of(summary).items()))
  if f"models_{name}" in summary:
    mean, least = (measure.format(summary[f"models_{name}{end}"]) for end in ("", "_min"))
    pairs.append((f"client models, {MEASURES[name].title}", f"mean {mean}, min {least}"))
  if "member0_top1" in summary:
    each = [f"{summary[name]:.2%}" for name in summary if name.startswith("member")]
    pairs.append(("ensemble members, top-1", ", ".join(each)))
  pairs += [(title, text.format(**summary)) for n, title, text in _OPTIONAL_RESULTS if n in summary]
  pairs += [
    ("bytes up, down", f"{human_bytes(summary['bytes_up'])}, {human_bytes(summary['bytes_down'])}"),
    ("round trips", f"{summary['round_trips']:,}"),
    *_flops(summary),
    ("time", human_seconds(summary["seconds"])),
    *_simulated(summary),
    ("folder", str(folder.path)),
  ]
  if summary["no_better_than_guessing"]:
    advice = "try a lower --lr or more rounds"
    if "frozen_at" in summary:  # after FixBN's freeze, batch statistics no longer normalize
      advice = "try a lower --lr, or --freeze_lr_factor=0.2 --freeze_clip_norm=1"
    pairs.append(("warning", f"{constant_baseline.WARNING}; {advice}"))
  print(summary_table("result", pairs), flush=True)


def _test_results(summary: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns the run's test measures, and its threshold (verification) or IoU of each class."""
  pairs = [
    (measure.title, measure.format(summary[n])) for n, measure in measures_of(summary).items()
  ]
  if "threshold" in summary:
    title, accuracy = pairs[0]
    error = f"{summary['verification_error']:.2%}"
    return [(title, f"{accuracy} ± {error}"), ("threshold", f"{summary['threshold']:.4f}")]
  by_class = {n.removeprefix("iou_"): summary[n] for n in summary if n.startswith("iou_")}
  if 0 < len(by_class) <= _MOST_NAMES:
    pairs.append(("IoU by class", ", ".join(f"{n} {value:.1%}" for n, value in by_class.items())))
  return pairs


def _recall_by_class(folder: RunFolder) -> list[tuple[str, str]]:
  """Returns the recall of each class with test examples, unless there are many classes."""
  classes = folder.read_evaluation().get("classes", [])
  tested = [f"{c['name']} {c['recall']:.1%}" for c in classes if c["recall"] is not None]
  return [("recall by class", ", ".join(tested))] if 0 < len(tested) <= _MOST_NAMES else []


def _other_readings(summary: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns the compared measure by validation and as a mean over the last evaluations."""
  name, measure = next(iter(measures_of(summary).items()))
  pairs = []
  if f"best_{name}" in summary:
    value = measure.format(summary[f"best_{name}"])
    pairs.append(
      ("best by validation", f"round {summary['best_round']:,}, {measure.title} {value}")
    )
  if f"mean_{name}" in summary and summary["average_last"] > 1:
    value = f"{measure.title} {measure.format(summary[f'mean_{name}'])} on average"
    pairs.append((f"last {summary['average_last']} evaluations", value))
  return pairs


def _round_bytes(cost: Cost, sparse: bool) -> list[tuple[str, str]]:
  """Returns a client's bytes per round; ``sparse`` updates add bytes that are known only later."""
  fixed = f"{human_bytes(cost.up)} up and {human_bytes(cost.down)} down per client"
  if not sparse:
    return [("bytes per round", fixed)]
  also = f", and {fixed}" if cost.up or cost.down else ""
  return [("bytes per round", f"depend on the updates{also}")]


def _flops(summary: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns the results that only split learning has, such as the FLOPs of client and server."""
  if "client_flops" not in summary:
    return []
  flops = ", ".join(
    f"{party} {summary[f'{party}_flops']:.3g}"
    for party in ("client", "server", "relay")
    if f"{party}_flops" in summary
  )
  pairs = [("training FLOPs", flops)]
  if "relay_bytes" in summary:
    pairs.append(("bytes between relays", human_bytes(summary["relay_bytes"])))
  if "reconstruction" in summary:
    pairs.append(("autoencoder loss", f"{summary['reconstruction']:.4f}"))
  return pairs


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


def _step_bytes(cost: Cost) -> list[tuple[str, str]]:
  """Returns the bytes and round trips of a local step, which are added to those of a round."""
  if not cost.step_trips:
    return []
  trips = f"{cost.step_trips} round trip{'s' if cost.step_trips > 1 else ''}"
  if not cost.step_up and not cost.step_down:  # split learning lists its bytes in another row
    return [("also per step", trips)]
  up, down = human_bytes(cost.step_up), human_bytes(cost.step_down)
  return [("also per step", f"{up} up and {down} down per client, {trips}")]


def _simulated(summary: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns the time on the simulated network (--network) and the staleness of ASGD's gradients."""
  pairs = []
  if "simulated_seconds" in summary:
    pairs.append(("simulated time", human_seconds(summary["simulated_seconds"])))
  if "staleness_mean" in summary:
    mean, most = summary["staleness_mean"], summary["staleness_max"]
    pairs.append(("staleness", f"mean {mean:.1f} updates, max {most}"))
  return pairs
