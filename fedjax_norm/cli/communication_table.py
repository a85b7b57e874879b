"""Table of the bytes and round trips of one epoch of synchronous SGD, one row per norm."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_norm import host_memory, models, norm
from fedjax_norm.algorithms.costs.ledger import exchange_cost, model_shapes, paper_cost
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.terminal.tables import columns_table, human_bytes


class Entry(NamedTuple):
  """Bytes and round trips of one epoch of one model with one norm.

  Attributes:
    model: name of the model.
    norm: name of the norm.
    norm_layers: number n of norm layers.
    steps: number of steps in the epoch.
    bytes_up: bytes that all workers send, in this implementation.
    bytes_down: bytes that all workers receive, in this implementation.
    round_trips: round trips, in this implementation.
    paper_bytes_up: bytes that all workers send as paper 000 counts them.
    paper_round_trips: round trips as paper 000 counts them: 2 n + 1 per step for distributed BN
      (sync_bn), else 1.
  """

  model: str
  norm: str
  norm_layers: int
  steps: int
  bytes_up: int
  bytes_down: int
  round_trips: int
  paper_bytes_up: int
  paper_round_trips: int


def epoch_table(
  model: str,
  image_shape: tuple[int, int, int],
  num_classes: int,
  workers: int,
  steps: int,
  stem: str = "auto",
) -> list[Entry]:
  """Returns an entry for each norm that the model can have.

  Args:
    model: key of ``models.MODELS``.
    image_shape: (H, W, C).
    num_classes: number of outputs of the model.
    workers: number of workers.
    steps: number of steps in the epoch.
    stem: variant of the model's first layers (option ``stem``).

  Raises:
    UserError: the model is unknown, does not fit images of this shape with any norm, or there are
      too many workers for the host's memory.
  """
  models.entry(model)  # raises for an unknown model
  host_memory.check(100 * workers, f"a table of {workers:,} workers", "take fewer workers")
  entries, refused = [], None
  for name in norm.NAMES:
    try:
      net = models.create(model, norm.create(name), num_classes, image_shape, stem)
      groups = list(models.norm_modules(net, image_shape).values())
    except UserError as error:
      refused = error  # the model cannot have this norm with images of this shape
      continue
    params = model_shapes(net, image_shape)["params"]
    cost = exchange_cost(net, image_shape, "mean", params, params)
    ours = cost.of_round([1] * workers)
    papers = paper_cost(cost, net.norm, groups).of_round([1] * workers)
    entries.append(
      Entry(
        model,
        name,
        len(groups),
        steps,
        bytes_up=steps * ours.bytes_up,
        bytes_down=steps * ours.bytes_down,
        round_trips=steps * ours.round_trips,
        paper_bytes_up=steps * papers.bytes_up,
        paper_round_trips=steps * papers.round_trips,
      )
    )
  if refused and not entries:
    raise refused
  return entries


def table(entries: Sequence[Entry]) -> str:
  """Returns the entries as a table for the terminal."""
  head = ["model", "norm", "norm layers", "steps", "bytes up", "bytes down", "round trips"]
  head += ["bytes up (paper 000)", "round trips (paper 000)"]
  rows = [
    [
      e.model,
      e.norm,
      str(e.norm_layers),
      f"{e.steps:,}",
      human_bytes(e.bytes_up),
      human_bytes(e.bytes_down),
      f"{e.round_trips:,}",
      human_bytes(e.paper_bytes_up),
      f"{e.paper_round_trips:,}",
    ]
    for e in entries
  ]
  return columns_table(head, rows)


def write(entries: Sequence[Entry], path: Path) -> None:
  """Writes the entries to a CSV file with one row per entry."""
  write_table(path, [entry._asdict() for entry in entries])
