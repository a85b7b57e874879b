"""What a run shows: its start, its pictures and its end."""

from typing import Any

import jax
import numpy as np

from experiments.flags import Config
from fedjax_norm import models, trees
from fedjax_norm.comm import Cost
from fedjax_norm.data.federated import label_counts
from fedjax_norm.training import communication, plots
from fedjax_norm.training.loop import Outcome, Program
from fedjax_norm.training.run_folder import RunFolder
from fedjax_norm.training.table import columns_table, human_bytes, human_seconds, summary_table
from fedjax_norm.training.task import Task


def announce(config: Config, task: Task, program: Program) -> None:
  """Prints what is about to run."""
  sizes = np.asarray(task.data.sizes)
  variables = jax.eval_shape(lambda: models.init(task.model, jax.random.key(0), task.image_shape))
  cost = next(iter(program.phases.values())).algorithm.cost
  pairs = [
    ("data", f"{config.data}: {sizes.sum():,} training, {len(task.source.test.labels):,} test"),
    (
      "clients",
      f"{len(sizes):,} by {config.partition}, {sizes.min():,} to {sizes.max():,} examples each",
    ),
    ("model", f"{config.model}, {config.norm}, {trees.size(variables['params']):,} parameters"),
    ("a round", f"{human_bytes(cost.up)} up and {human_bytes(cost.down)} down a client"),
    *_lockstep(cost),
    ("mapping", program.nodes.describe()),
    ("images", f"{human_bytes(task.data.images.nbytes)}, kept on the {program.data_on}"),
    *([("simulated network", config.network)] if config.network else []),
  ]
  print(summary_table(config.algorithm, pairs), flush=True)


def draw_start(folder: RunFolder, task: Task, title: str) -> None:
  """Draws who holds what."""
  population = task.data.num_clients
  counts = label_counts(task.data, plots.shown_clients(population), task.num_classes)
  path = folder.path / "partition.png"
  plots.partition(counts, task.source.class_names, path, title, population)


def tell_communication(folder: RunFolder, config: Config, task: Task) -> None:
  """Prints, and keeps, what an epoch of the model would send under each norm."""
  workers = task.data.num_clients
  steps = -(-int(task.data.sizes.sum()) // (workers * config.batch_size))
  entries = communication.epoch_table(
    config.model, task.image_shape, task.num_classes, workers, steps, config.stem
  )
  communication.write(entries, folder.path / "communication.csv")
  print(communication.table(entries), flush=True)


def draw_end(folder: RunFolder, outcome: Outcome, title: str) -> None:
  """Draws what was learnt."""
  path = folder.path / "learning_curves.png"
  plots.learning_curves(outcome.rows, path, title, outcome.frozen_at)
  if outcome.client_accuracies:
    ids, accuracies = map(np.array, zip(*outcome.client_accuracies.items(), strict=True))
    plots.client_accuracy(accuracies, folder.path / "clients.png", title, ids)


def print_end(folder: RunFolder, summary: dict[str, Any]) -> None:
  """Prints the figures of one run."""
  pairs = [
    ("top-1", f"{summary['top1']:.2%}"),
    ("top-5", f"{summary['top5']:.2%}"),
    ("test loss", f"{summary['loss']:.4f}"),
    ("rounds", f"{summary['rounds']:,}"),
  ]
  if "frozen_at" in summary:
    pairs.append(("frozen at round", f"{summary['frozen_at']:,}"))
  if "clients_top1" in summary:
    mean, least = summary["clients_top1"], summary["clients_top1_min"]
    pairs.append(("own labels, top-1", f"mean {mean:.2%}, least {least:.2%}"))
  pairs += [
    ("sent up, down", f"{human_bytes(summary['bytes_up'])}, {human_bytes(summary['bytes_down'])}"),
    ("round trips", f"{summary['round_trips']:,}"),
    ("time", human_seconds(summary["seconds"])),
    *_simulated(summary),
    ("folder", str(folder.path)),
  ]
  print(summary_table("result", pairs), flush=True)


def _lockstep(cost: Cost) -> list[tuple[str, str]]:
  if not cost.step_trips:
    return []
  up, down = human_bytes(cost.step_up), human_bytes(cost.step_down)
  return [("a step besides", f"{up} up and {down} down a client, {cost.step_trips} round trips")]


def _simulated(summary: dict[str, Any]) -> list[tuple[str, str]]:
  pairs = []
  if "simulated_seconds" in summary:
    pairs.append(("simulated time", human_seconds(summary["simulated_seconds"])))
  if "staleness_mean" in summary:
    mean, most = summary["staleness_mean"], summary["staleness_max"]
    pairs.append(("staleness", f"mean {mean:.1f} updates, most {most}"))
  return pairs


def summarize_seeds(summaries: list[dict[str, Any]]) -> dict[str, Any]:
  """Mean and standard deviation (n - 1) over seeds of every figure of a run's summary."""
  result: dict[str, Any] = {"seeds": len(summaries)}
  for name in summaries[0]:
    values = [summary[name] for summary in summaries]
    result[name] = values[0] if len(set(values)) == 1 else float(np.mean(values))
    result[f"{name}_std"] = float(np.std(values, ddof=1))
  return result


def print_seeds(summaries: dict[int, dict[str, Any]], result: dict[str, Any]) -> None:
  """Prints the seeds and their mean."""
  rows = [
    [str(seed), f"{s['top1']:.2%}", f"{s['top5']:.2%}", f"{s['loss']:.4f}"]
    for seed, s in summaries.items()
  ]
  rows.append(["mean", f"{result['top1']:.2%}", f"{result['top5']:.2%}", f"{result['loss']:.4f}"])
  rows.append(
    ["std", f"{result['top1_std']:.2%}", f"{result['top5_std']:.2%}", f"{result['loss_std']:.4f}"]
  )
  print(columns_table(["seed", "top-1", "top-5", "test loss"], rows), flush=True)
