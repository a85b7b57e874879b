"""The report of a run: printed results, pictures, and CSV files about clients and communication."""

from typing import Any

import numpy as np

from fedjax_norm.cli import communication_table
from fedjax_norm.cli.config import Config
from fedjax_norm.data.federated import label_counts
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.measures import MEASURES, compared, measures_of
from fedjax_norm.plots import base, clients, confusion, curves, diagnostics, masks
from fedjax_norm.training.finished_run import has_single_model, load_run
from fedjax_norm.training.outcome import Outcome
from fedjax_norm.training.placement.client_states import evenly_spaced
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.run_folder import RunFolder, read_config
from fedjax_norm.training.task import constant_baseline
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

# Test images whose masks are drawn.
_IMAGES_WITH_MASKS = 4

# Results of classes are printed if there are at most this many.
_MOST_NAMES = 20


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
  names = task.source.class_names
  figure = clients.partition_figure(counts, names, title, population, task.client_names)
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


def draw_results(folder: RunFolder, task: Task, outcome: Outcome, title: str) -> None:
  """Draws the learning curves, and what was measured of classes, clients and diagnostics.

  For segmentation it also draws predicted masks, if one model serves all clients.
  """
  figure = curves.learning_curves_figure(outcome.rows, title, outcome.frozen_at)
  base.save(figure, folder.path / "learning_curves.png")
  path = folder.path / "diagnostics.png"
  diagnostics.diagnostics(outcome.diagnostics, outcome.rows, path, title, outcome.frozen_at)
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
  if task.kind == "segmentation" and has_single_model(read_config(folder.path), task.model.norm):
    _draw_masks(folder, task, title)


def _draw_masks(folder: RunFolder, task: Task, title: str) -> None:
  """Draws ``masks.png``: the true and the predicted masks of some test images."""
  chosen = evenly_spaced(np.arange(len(task.source.test.labels)), _IMAGES_WITH_MASKS)
  images, true = np.asarray(task.source.test.images[chosen]), task.test_targets[chosen]
  try:
    predicted = load_run(folder.path).predict(images)
  except UserError as error:  # the result is complete without this picture
    print(f"note: masks.png is not drawn: {error}", flush=True)
    return
  shown = (images - task.value_range[0]) / max(np.ptp(task.value_range), 1e-9)
  names = task.source.target_names or ()
  figure = masks.masks_figure(shown, true, predicted, names, title)
  base.save(figure, folder.path / "masks.png")


def print_end(folder: RunFolder, summary: dict[str, Any]) -> None:
  """Prints the results of one run, the content of ``summary.json``."""
  pairs = [
    *_test_results(summary, len(folder.read_evaluation().get("classes", []))),
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


def _test_results(summary: dict[str, Any], classes: int) -> list[tuple[str, str]]:
  """Returns the run's test measures, and its threshold (verification) or IoU of each class."""
  measures = compared(summary, classes)
  pairs = [(measure.title, measure.format(summary[n])) for n, measure in measures.items()]
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


def _simulated(summary: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns the time on the simulated network (--network) and the staleness of ASGD's gradients."""
  pairs = []
  if "simulated_seconds" in summary:
    pairs.append(("simulated time", human_seconds(summary["simulated_seconds"])))
  if "staleness_mean" in summary:
    mean, most = summary["staleness_mean"], summary["staleness_max"]
    pairs.append(("staleness", f"mean {mean:.1f} updates, max {most}"))
  return pairs
