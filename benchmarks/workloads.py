"""The workloads: one row each, at full scale and as a short check."""

import dataclasses
from typing import NamedTuple

from benchmarks.measure import FIRST_START, SECOND_START
from benchmarks.peers.job import Job
from benchmarks.systems import OURS


class Data(NamedTuple):
  """The data of a workload.

  Attributes:
    name: ``cifar10`` (artificial images of its size if it is not available), ``digits`` or
      ``artificial``.
    image_shape: (H, W, C).
    examples: examples per client, or their mean.
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
    alpha: concentration of the Dirichlet distribution of the clients' sizes; 0 for equal sizes.
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
  alpha: float = 0.0
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

  @property
  def examples(self) -> int:
    """Number of examples of a round, or of a round of clients of mean size."""
    return self.cohort * (self.local_steps * self.batch_size or self.data.examples)

  def shown(self, seconds: float) -> float:
    """Converts the seconds of a round to the workload's unit."""
    seconds /= self.local_steps if self.unit == "ms a step" else 1
    return seconds if self.unit == "s a round" else 1e3 * seconds


LETTERS = {
  "a": "the CIFAR-10 benchmark of pfl-research",
  "b": "10 clients with a ResNet-20",
  "c": "digits and a tiny network, where overhead dominates",
  "d": "ResNet-18",
  "e": "first and second start of a, b and c, on an accelerator of d first",
  "f": "populations of 1,000 to 100,000",
  "g": "a with clients of unequal size",
  "h": "the network of NIID-Bench",
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
    (OURS, "device"),
    (OURS, "host"),
    ("torch_loop", "nchw"),
    ("pfl", "threads"),
    ("pfl", "processes"),
    ("fedjax", ""),
  ),
)
_G = _A._replace(
  key="g",
  title="CIFAR-10, 50 of 1000 clients of unequal size, cnn",
  local_steps=0,
  samples=4,
  alpha=0.5,
  contenders=(
    (OURS, ""),
    ("torch_loop", "nchw"),
    ("torch_loop", "channels_last"),
    ("torch_loop", "compiled"),
    ("pfl", "threads"),
    ("pfl", "processes"),
    ("fedjax", ""),
  ),
)
# NIID-Bench (arXiv 2102.02079): its network, batch size, rate and momentum; no norm.
_H = _B._replace(
  key="h",
  title="10 clients, NIID-Bench's network, batch 64",
  model="niid",
  groups=0,
  batch_size=64,
  samples=4,
)
_POPULATIONS = (1_000, 10_000, 100_000)


def table(letters: str, scale: str, accelerator: bool) -> list[Workload]:
  """Returns the workloads of the letters, in their order.

  Args:
    letters: letters from ``LETTERS``.
    scale: ``full``, or ``smoke`` for a run that only checks that everything works.
    accelerator: whether to measure as on an accelerator, where workload d is larger.
  """
  d = _D
  if accelerator:
    d = _D._replace(
      data=Data("cifar10", _CIFAR, 320),
      clients=32,
      cohort=32,
      batch_size=64,
      local_steps=5,
      samples=5,
      dtypes=("bfloat16", "float32"),
    )
  starts = [
    one._replace(
      key=f"e{one.key}",
      title=f"starts of {one.key}",
      samples=1,
      contenders=((OURS, FIRST_START), (OURS, SECOND_START)),
    )
    for one in ((_C,) if scale == "smoke" else (d, _A, _B, _C) if accelerator else (_A, _B, _C))
  ]
  populations = [
    _F._replace(key=f"f{clients}", clients=clients, title=_F.title.format(clients=clients))
    for clients in _POPULATIONS
  ]
  rows = [_A, _B, _C, d, *starts, *populations, _G, _H]
  chosen = [one for letter in letters for one in rows if one.key[0] == letter]
  return [_smoke(one) for one in chosen] if scale == "smoke" else chosen


def _smoke(one: Workload) -> Workload:
  """Returns the workload with fewer clients, smaller batches and fewer rounds."""
  small = one._replace(
    cohort=min(one.cohort, 4),
    local_steps=min(one.local_steps, 2),
    rounds_per_sample=min(one.rounds_per_sample, 3),
    samples=1,
  )
  if one.clients > one.cohort:
    return small
  return small._replace(
    clients=small.cohort, batch_size=8, data=one.data._replace(examples=8 * small.local_steps)
  )
