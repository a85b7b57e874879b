"""The workloads: one row each, at full scale and as a short check."""

import dataclasses
from typing import NamedTuple

from benchmarks.peers.job import Job


class Data(NamedTuple):
  """The data of a workload.

  Attributes:
    name: ``cifar10`` (artificial images of its size if it is not available), ``digits`` or
      ``artificial``.
    image_shape: (H, W, C).
    examples: examples per client.
  """

  name: str
  image_shape: tuple[int, int, int]
  examples: int


class Workload(NamedTuple):
  """One federation and one model; ``Job`` documents the common fields.

  Attributes:
    key: letter on the command line, with a suffix if a letter has several workloads.
    title: title in tables and pictures.
    unit: unit of the times: ``s a round``, ``ms a round``, or ``ms a step`` of all clients.
    dtypes: data types to measure.
    contenders: pairs (system, variant) to measure; empty for all.
  """

  key: str
  title: str
  unit: str
  data: Data
  model: str
  groups: int
  clients: int
  cohort: int
  batch_size: int
  local_steps: int
  rate: float
  momentum: float
  rounds_per_sample: int
  samples: int
  dtypes: tuple[str, ...] = ("float32",)
  contenders: tuple[tuple[str, str], ...] = ()

  def job(self, folder: str, threads: int) -> Job:
    """Returns the job of every system, without its variant."""
    shared = {field.name for field in dataclasses.fields(Job)} & set(self._fields)
    return Job(
      **{name: getattr(self, name) for name in shared},
      num_classes=10,
      folder=folder,
      threads=threads,
    )

  def shown(self, seconds: float) -> float:
    """Converts the seconds of a round to the workload's unit."""
    factors = {"s a round": 1, "ms a round": 1e3, "ms a step": 1e3 / self.local_steps}
    return seconds * factors[self.unit]


LETTERS = {
  "a": "the CIFAR-10 benchmark of pfl-research",
  "b": "10 clients with a ResNet-20",
  "c": "digits and a tiny network, where overhead dominates",
  "d": "ResNet-18",
  "e": "compile, first round and steady round of a, b and c",
  "f": "populations of 1,000 to 100,000",
}

_CIFAR = (32, 32, 3)
# pfl-research's benchmark (arXiv 2404.06430): dropout, no norm, no augmentation.
_A = Workload(
  "a",
  "CIFAR-10, 50 of 1000 clients, cnn",
  "s a round",
  Data("cifar10", _CIFAR, 50),
  "cnn",
  groups=0,
  clients=1000,
  cohort=50,
  batch_size=10,
  local_steps=5,
  rate=0.1,
  momentum=0.0,
  rounds_per_sample=1,
  samples=2,
)
_B = Workload(
  "b",
  "10 clients, ResNet-20 with GN, batch 32",
  "ms a step",
  Data("cifar10", _CIFAR, 320),
  "resnet20",
  groups=8,
  clients=10,
  cohort=10,
  batch_size=32,
  local_steps=5,
  rate=0.01,
  momentum=0.9,
  rounds_per_sample=1,
  samples=2,
)
_C = Workload(
  "c",
  "digits, 10 of 100 clients, tiny with GN",
  "ms a round",
  Data("digits", (8, 8, 1), 14),
  "tiny",
  groups=8,
  clients=100,
  cohort=10,
  batch_size=7,
  local_steps=2,
  rate=0.05,
  momentum=0.0,
  rounds_per_sample=10,
  samples=5,
)
_D = Workload(
  "d",
  "ResNet-18 with GN, CIFAR-10's images",
  "s a round",
  Data("cifar10", _CIFAR, 64),
  "resnet18",
  groups=32,
  clients=2,
  cohort=2,
  batch_size=32,
  local_steps=1,
  rate=0.05,
  momentum=0.9,
  rounds_per_sample=1,
  samples=1,
)
_F = Workload(
  "f",
  "population of {clients:,} clients, 50 a round",
  "ms a round",
  Data("artificial", (16, 16, 1), 10),
  "tiny",
  groups=8,
  clients=1000,
  cohort=50,
  batch_size=10,
  local_steps=1,
  rate=0.05,
  momentum=0.0,
  rounds_per_sample=5,
  samples=4,
  contenders=(
    ("ours", "device"),
    ("ours", "host"),
    ("torch_loop", "nchw"),
    ("pfl", "threads"),
    ("pfl", "processes"),
    ("fedjax", ""),
  ),
)
_POPULATIONS = (1_000, 10_000, 100_000)


def table(letters: str, scale: str, accelerator: bool) -> list[Workload]:
  """Returns the workloads of the letters; ``e`` uses the measurements of a, b and c.

  Args:
    letters: letters from ``LETTERS``.
    scale: ``full``, or ``smoke`` for a run that only checks that everything works.
    accelerator: whether the machine has an accelerator; workload d is larger then.
  """
  if "e" in letters and not set(letters) & set("abc"):
    letters += "abc"
  d = _D
  if accelerator:
    d = _D._replace(
      data=Data("cifar10", _CIFAR, 320),
      clients=32,
      cohort=32,
      batch_size=64,
      local_steps=5,
      samples=5,
      dtypes=("float32", "bfloat16"),
    )
  f = [
    _F._replace(key=f"f{clients}", clients=clients, title=_F.title.format(clients=clients))
    for clients in _POPULATIONS
  ]
  chosen = [one for one in (_A, _B, _C, d, *f) if one.key[0] in letters]
  return [_smoke(one) for one in chosen] if scale == "smoke" else chosen


def _smoke(one: Workload) -> Workload:
  """Returns the workload with fewer clients and rounds."""
  cohort = min(one.cohort, 4)
  return one._replace(
    clients=cohort if one.clients == one.cohort else one.clients,
    cohort=cohort,
    local_steps=min(one.local_steps, 2),
    rounds_per_sample=min(one.rounds_per_sample, 3),
    samples=1,
  )
