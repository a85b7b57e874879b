"""The job and the result of a measurement; needs only the standard library and NumPy."""

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
  """One measurement: federated averaging of one model on one federation.

  Attributes:
    model: ``tiny``, ``cnn``, ``niid``, ``resnet20`` or ``resnet18``.
    groups: groups of group normalization; 0 for no norm.
    num_classes: number of classes.
    clients: number of clients.
    cohort: clients per round.
    batch_size: examples per local step.
    local_steps: local steps of a client per round; 0 for one epoch over its examples, whose last
      batch may be smaller. With 0, clients may be of different sizes.
    rate: learning rate of the clients' SGD.
    momentum: momentum of the clients' SGD, reset in each round.
    rounds_per_sample: rounds that are timed together.
    samples: number of timed samples after the first call.
    folder: folder of the exported arrays.
    threads: number of cores to use.
    variant: name of the variant, '' for the default.
    dtype: data type of the computation, ``float32`` or ``bfloat16``.
    seed: seed of all random numbers.
    started: launch time of the process, in seconds since the epoch.
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
    """Number of all rounds: those of the first call and of the samples."""
    return (1 + self.samples) * self.rounds_per_sample

  def steps(self, size: Any) -> Any:
    """Returns the local steps per round of clients with ``size`` examples (any shape)."""
    return self.local_steps or -(-size // self.batch_size)


@dataclasses.dataclass
class Result:
  """The result of a measurement; times in seconds.

  Attributes:
    start: time from the launch of the process to the first round: imports, data, construction.
    first: time per round of the first call, without compilation.
    samples: time per round of each later call, until its results are complete; with clients of
      different sizes, in rounds with the mean number of examples.
    compile: compilation time of the first call; None if nothing is compiled.
    losses: mean training loss of each call, if the system reports it.
    device: ``cpu``, or the kind of accelerator.
    peak_mb: greatest resident memory of the process, in 10^6 bytes; None if other processes do
      the work.
    private_mb: the same, without mapped files, which the kernel can drop; sampled ten times per
      second.
    detail: further values to record.
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
  """Reads an exported array (see ``export.py``), into memory or mapped from its file."""
  return np.load(Path(job.folder) / f"{name}.npy", mmap_mode="r" if mapped else None)


def weights(job: Job) -> dict[str, np.ndarray]:
  """Reads the initial parameters by path, such as ``Block_0/Conv_0/kernel``."""
  with np.load(Path(job.folder) / "weights.npz") as archive:
    return {name: archive[name] for name in archive.files}


def client_ids(job: Job) -> list[np.ndarray]:
  """Returns the ids of each client's examples."""
  return np.split(array(job, "order"), array(job, "offsets")[1:-1])


def relative_sizes(job: Job) -> np.ndarray:
  """Returns the examples of each call, in units of a call of clients of mean size: [calls]."""
  rounds = (array(job, "batches") >= 0).sum((1, 2, 3))
  mean = job.cohort * array(job, "offsets")[-1] / job.clients
  return rounds.reshape(-1, job.rounds_per_sample).mean(1) / mean


def memory_mb(name: str) -> float:
  """Returns this process's memory by the kernel's names (``VmHWM``, ``RssAnon``), in 10^6 bytes."""
  # ru_maxrss, to take another way, begins with what the launching process held.
  for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{name}:"):
      return int(line.split()[1]) * 1024 / 1e6
  raise RuntimeError(f"the kernel does not tell {name}.")


def result(job: Job, begun: float, ends: Sequence[float]) -> Result:
  """Makes a result from times of ``time.perf_counter``, of a system that trains ``cohorts``.

  Args:
    job: the measured job.
    begun: start of the first round.
    ends: end of each call: the first, then those of the samples.
  """
  now = time.perf_counter()
  start = time.time() - job.started - (now - begun)
  calls = np.diff([begun, *ends]) / job.rounds_per_sample
  samples = calls[1:] if job.local_steps else calls[1:] / relative_sizes(job)[1:]
  return Result(start, float(calls[0]), samples.tolist(), peak_mb=memory_mb("VmHWM"))


def main(measure: Callable[[Job], Result]) -> None:
  """Reads the job from the file on the command line and prints the result."""
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
  """Returns the result in a system's output, or None."""
  for line in reversed(output.splitlines()):
    if line.startswith(_ANSWER):
      return Result(**json.loads(line.removeprefix(_ANSWER)))
  return None
