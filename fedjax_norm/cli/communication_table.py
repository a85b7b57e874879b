"""What an epoch of SSGD sends, for every norm that a model can have."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_norm import host_memory, models, norm
from fedjax_norm.algorithms.ledger import exchange_cost, model_shapes, paper_cost
from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.terminal.tables import columns_table, human_bytes


class Entry(NamedTuple):
  """What one norm of one model sends in an epoch.

  Attributes:
    model: its name.
    norm: its name.
    norm_layers: n.
    steps: of an epoch.
    bytes_up: of all workers in an epoch, as sent here.
    bytes_down: likewise.
    round_trips: in an epoch.
    paper_bytes_up: of all workers in an epoch, by the paper's exchange.
    paper_round_trips: (2 n + 1) a step for distributed BN, else 1.
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
  """What an epoch sends under each norm that a model can have.

  Args:
    model: a key of ``models.MODELS``.
    image_shape: (H, W, C).
    num_classes: outputs.
    workers: how many send in a step.
    steps: of an epoch.
    stem: of the models that have several (see ``models.create``).

  Raises:
    UserError: an unknown model, or one that no norm makes fit these images.
  """
  models.entry(model)  # refuses an unknown one
  host_memory.check(100 * workers, f"a ledger of {workers:,} workers", "take fewer")
  entries, refused = [], None
  for name in norm.NAMES:
    try:
      net = models.create(model, norm.create(name), num_classes, image_shape, stem)
      groups = list(models.norm_modules(net, image_shape).values())
    except UserError as error:
      refused = error  # this model, at this size, does not come with this norm
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
  """The entries for reading."""
  head = ["model", "norm", "norm layers", "steps", "up", "down", "round trips"]
  head += ["up by the paper", "round trips by the paper"]
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
  """Writes the entries as CSV, a line each."""
  write_table(path, [entry._asdict() for entry in entries])
