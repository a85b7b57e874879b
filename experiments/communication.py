"""What an epoch of SSGD sends, for every norm and model: ``python -m experiments.communication``.

A worker sends its gradient once a step, and under distributed BN two more messages for every norm
layer. Two ways of counting those stand side by side. Ours: the moments forward (count, mean and m2)
and the two sums that the exact gradient needs backward. Paper 000's (sec. 4.2): the mean and the
variance forward, in one exchange after the other, and nothing backward. Both make 2 n + 1 round
trips a step with n norm layers; bytes are those of the messages.
"""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app as absl_app
from absl import flags

from experiments.app import guard, parse_flags
from fedjax_norm import models, norm
from fedjax_norm.algorithms.base import round_cost
from fedjax_norm.comm import paper_cost
from fedjax_norm.errors import UserError
from fedjax_norm.training.table import columns_table, human_bytes

_CLIENTS = flags.DEFINE_integer("clients", 10, "Workers.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Examples of a worker's step.")
_EXAMPLES = flags.DEFINE_integer("examples", 50_000, "Training examples of all workers.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Pixels square.")
_CHANNELS = flags.DEFINE_integer("channels", 3, "Of an image.")
_CLASSES = flags.DEFINE_integer("classes", 10, "Classes.")
_MODELS = flags.DEFINE_list("models", list(models.MODELS), "Which models.")
_OUTPUT = flags.DEFINE_string("output", None, "A CSV file to write besides.")


@dataclasses.dataclass(frozen=True)
class Entry:
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
    stem: of ResNets.
  """
  entries = []
  for name in norm.NAMES:
    try:
      groups = dict(models.entry(model).groups) if name == "gn" else {}
      spec = norm.create(name, groups=groups.get("groups"), group_size=groups.get("group_size"))
      net = models.create(model, spec, num_classes, image_shape, stem)
      channels = list(models.norm_modules(net, image_shape).values())
    except UserError:
      continue  # this model, at this size, does not come with this norm
    cost = round_cost(net, image_shape, "mean")
    ours = cost.of_round([1] * workers)
    papers = paper_cost(cost, spec, channels).of_round([1] * workers)
    entries.append(
      Entry(
        model,
        name,
        len(channels),
        steps,
        bytes_up=steps * ours.bytes_up,
        bytes_down=steps * ours.bytes_down,
        round_trips=steps * ours.round_trips,
        paper_bytes_up=steps * papers.bytes_up,
        paper_round_trips=steps * papers.round_trips,
      )
    )
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
  with open(path, "w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Entry)])
    writer.writerows(dataclasses.astuple(entry) for entry in entries)


def main(argv: Sequence[str]) -> None:
  """Prints the table of the models that the flags name."""

  def work() -> None:
    if argv[1:]:
      raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
    for flag in (_CLIENTS, _BATCH_SIZE, _EXAMPLES, _IMAGE_SIZE, _CHANNELS, _CLASSES):
      if flag.value < 1:
        raise UserError(f"--{flag.name} is {flag.value}; it must be at least 1.")
    shape = (_IMAGE_SIZE.value, _IMAGE_SIZE.value, _CHANNELS.value)
    steps = -(-_EXAMPLES.value // (_CLIENTS.value * _BATCH_SIZE.value))
    entries = [
      entry
      for model in _MODELS.value
      for entry in epoch_table(model, shape, _CLASSES.value, _CLIENTS.value, steps)
    ]
    print(table(entries))
    if _OUTPUT.value:
      write(entries, Path(_OUTPUT.value))
      print(f"written: {_OUTPUT.value}")

  sys.exit(guard(work))


if __name__ == "__main__":
  absl_app.run(main, flags_parser=parse_flags)
