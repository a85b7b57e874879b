"""What a system is asked to measure and what it answers; the standard library and NumPy only."""

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_ANSWER = "RESULT "


@dataclasses.dataclass(frozen=True)
class Job:
  """One measurement: federated averaging of one model on one federation of equal clients.

  Attributes:
    model: ``tiny``, ``cnn``, ``resnet20`` or ``resnet18``.
    groups: of its group normalization; 0 for no norm.
    num_classes: of the labels.
    clients: the population.
    cohort: clients a round.
    batch_size: examples a local step.
    local_steps: a client takes a round.
    rate: of the clients' SGD.
    momentum: of the clients' SGD, which starts anew each round.
    rounds_per_sample: rounds that are timed together.
    samples: how many times are taken after the first call.
    folder: of the exported arrays.
    threads: the cores that may be used.
    variant: what the system is to do differently, '' for nothing.
    dtype: what is computed in, ``float32`` or ``bfloat16``.
    seed: of everything random.
    started: when the process was asked for, seconds since the epoch.
  """

  model: str
  groups: int
  num_classes: int
  clients: int
  cohort: int
  batch_size: int
  local_steps: int
  rate: float
  momentum: float
  rounds_per_sample: int
  samples: int
  folder: str
  threads: int
  variant: str = ""
  dtype: str = "float32"
  seed: int = 0
  started: float = 0.0

  @property
  def rounds(self) -> int:
    """All rounds: those of the first call and those of the samples."""
    return (1 + self.samples) * self.rounds_per_sample


@dataclasses.dataclass
class Result:
  """What came out; times in seconds.

  Attributes:
    start: from the launch of the process to the first round: imports, data, construction.
    first: a round of the first call, without what was compiled for it.
    samples: a round in each later call, everything it computes done.
    compile: what the first call compiled; None where nothing is compiled.
    losses: the mean training loss of each call, where the system tells.
    device: ``cpu``, or the kind of accelerator that did the work.
    peak_mb: the greatest resident memory of the process, in 10^6 bytes; None where the work is
      done by other processes.
    private_mb: the same without files that are mapped, which the kernel can drop; looked at ten
      times a second.
    detail: what else is to be recorded.
  """

  start: float
  first: float
  samples: list[float]
  compile: float | None = None
  losses: list[float] = dataclasses.field(default_factory=list)
  device: str = "cpu"
  peak_mb: float | None = None
  private_mb: float | None = None
  detail: dict[str, Any] = dataclasses.field(default_factory=dict)


def array(job: Job, name: str, mapped: bool = False) -> np.ndarray:
  """One of the exported arrays: see ``export.py``; in memory, or mapped from its file."""
  return np.load(Path(job.folder) / f"{name}.npy", mmap_mode="r" if mapped else None)


def weights(job: Job) -> dict[str, np.ndarray]:
  """The initial parameters by path, such as ``Block_0/Conv_0/kernel``."""
  with np.load(Path(job.folder) / "weights.npz") as archive:
    return {name: archive[name] for name in archive.files}


def client_ids(job: Job) -> list[np.ndarray]:
  """The ids of each client's examples."""
  return np.split(array(job, "order"), array(job, "offsets")[1:-1])


def memory_mb(name: str) -> float:
  """What the kernel says of this process's memory, in 10^6 bytes: ``VmHWM``, ``RssAnon``, ..."""
  # ru_maxrss, to take another way, begins with what the launching process held.
  for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{name}:"):
      return int(line.split()[1]) * 1024 / 1e6
  raise RuntimeError(f"the kernel does not tell {name}.")


def result(job: Job, begun: float, ends: Sequence[float]) -> Result:
  """A result from times of ``time.perf_counter``.

  Args:
    job: what was measured.
    begun: when the first round began.
    ends: when each call ended: the first one's, then the samples'.
  """
  now = time.perf_counter()
  start = time.time() - job.started - (now - begun)
  calls = np.diff([begun, *ends]) / job.rounds_per_sample
  return Result(start, float(calls[0]), calls[1:].tolist(), peak_mb=memory_mb("VmHWM"))


def main(measure: Callable[[Job], Result]) -> None:
  """Reads the job from the file named on the command line and prints the result."""
  job = Job(**json.loads(Path(sys.argv[1]).read_text()))
  private = [0.0]

  def watch() -> None:
    while True:
      private[0] = max(private[0], memory_mb("RssAnon"))
      time.sleep(0.1)

  threading.Thread(target=watch, daemon=True).start()
  result = measure(job)
  if result.peak_mb is not None:
    result.private_mb = max(private[0], memory_mb("RssAnon"))
  print(_ANSWER + json.dumps(dataclasses.asdict(result)), flush=True)
  # Threads and processes of a framework are not waited for.
  os._exit(0)


def answer(output: str) -> Result | None:
  """The result in what a system printed, or None."""
  for line in reversed(output.splitlines()):
    if line.startswith(_ANSWER):
      return Result(**json.loads(line.removeprefix(_ANSWER)))
  return None
