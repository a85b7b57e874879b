"""Measures on a machine with one accelerator what the README reports: ``benchmarks/gpu.sh``.

The parts run one after another, the most telling first. Each has a share of the time, and what it
leaves goes to the next. A part that fails or takes too long is reported, and the next one begins.
Every part writes its figures as they come, and the summary is written after each part.
"""

import datetime
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from benchmarks.measure import ROOT
from benchmarks.systems import last_line
from fedjax_norm.cli.app import guard, parse_flags, refuse_positional
from fedjax_norm.errors import UserError
from fedjax_norm.number_parsing import parse_float


class Part(NamedTuple):
  """A part of the measurements.

  Attributes:
    name: name of its folder.
    title: heading in the summary.
    share: share of the time.
    command: arguments for Python, with {folder}, {minutes} and {repeats} to be filled in.
    smoke: further arguments for a run that only checks that everything works.
    smoke_title: heading of such a run if it differs.
  """

  name: str
  title: str
  share: float
  command: tuple[str, ...]
  smoke: tuple[str, ...]
  smoke_title: str | None = None


_RUN = ("-m", "benchmarks.run", "--accelerator", "--output={folder}", "--repeats={repeats}")
_PEERS = "--peers=torch_loop,pfl"
# What differs on an accelerator, most telling first.
_TESTS = (
  "tests/ops",
  "tests/norm",
  "tests/client_mapping",
  "tests/test_accelerators.py",
  "tests/test_local_training.py",
  "tests/models/test_mixed_precision.py",
  "tests/models/test_small.py",
  "tests/algorithms/test_fedavg_mapping.py",
  "tests/algorithms/test_ssgd.py",
  "tests/algorithms/test_shared_kernels.py",
  "tests/training/test_loop.py",
  "tests/training/test_resume.py",
  "tests/experiments/test_machine.py",
  "tests/algorithms/test_contract.py",
)

PARTS = (
  Part(
    "resnet18",
    "ResNet-18, and PyTorch if it is installed",
    0.28,
    (*_RUN, _PEERS, "--workloads=d"),
    ("--scale=smoke", "--peers=", "--workloads=h"),
    "Workload h",
  ),
  Part(
    "workloads",
    "The other workloads",
    0.17,
    (*_RUN, "--peers=", "--workloads=a,g,b,c,h"),
    ("--scale=smoke", "--workloads=c"),
    "Workload c",
  ),
  Part(
    "lowering",
    "Convolutions",
    0.2,
    (
      *("-m", "benchmarks.lowering", "--output={folder}", "--minutes={minutes}"),
      "--models=resnet18,resnet20,cnn,niid,tiny",
    ),
    ("--models=tiny", "--platform=gpu", "--clients=2", "--batches=2", "--minutes=0.1"),
  ),
  Part(
    "starts",
    "First and second start",
    0.12,
    (*_RUN, "--peers=", "--workloads=e", "--repeats=1"),
    ("--scale=smoke", "--noaccelerator"),
  ),
  Part(
    "accuracy",
    "Accuracy of the main command",
    0.05,
    ("-m", "benchmarks.accuracy", "--output={folder}"),
    ("--seeds=1", "--extra=--rounds=2 --eval_every=1"),
  ),
  Part(
    "tests",
    "Tests",
    0.08,
    ("-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", *_TESTS),
    ("--collect-only",),
    "Tests: collected only, none was run",
  ),
  Part(
    "beside",
    "The other workloads, and PyTorch if it is installed",
    0.1,
    (*_RUN, _PEERS, "--workloads=a,b,c,h,g"),
    ("--scale=smoke", "--peers=torch_loop", "--workloads=c"),
    "Workload c, and PyTorch if it is installed",
  ),
)


def main(minutes: float, output: Path, smoke: bool) -> None:
  """Runs all parts.

  Args:
    minutes: time for all of them.
    output: folder of the results.
    smoke: whether to do as little as possible, on any machine.

  Raises:
    UserError: the folder has results, or JAX has no accelerator.
  """
  summary = output / "summary.md"
  if summary.exists():
    raise UserError(f"{output} has the results of an earlier run; give another --output.")
  devices = jax_devices()
  if not smoke and not re.match(r"\d+ (gpu|tpu) ", devices):
    raise UserError(
      f"JAX has no accelerator here ({devices}); install its plugin, such as pip install -e"
      " '.[cuda13]', or give --smoke to see only that the script works."
    )
  output.mkdir(parents=True, exist_ok=True)
  heading = "SMOKE RUN: figures mean nothing" if smoke else "Measurements on an accelerator"
  texts = [f"# {heading}\n", f"JAX's devices: {devices}.", *describe(), ""]
  begun, shares = time.monotonic(), 0.0
  for part in PARTS:
    title = (smoke and part.smoke_title) or part.title
    summary.write_text("\n".join([*texts, f"{title}: running.\n"]))
    shares += part.share
    left = begun + 60 * minutes * shares - time.monotonic()
    print(f"{title}: at most {left / 60:.1f} minutes", flush=True)
    folder = output / part.name
    folder.mkdir()
    status = run(command(part, folder, left, minutes, smoke), folder / "log.txt", left)
    print(f"  {status}", flush=True)
    texts += [f"## {title}\n", f"{status}\n", *results(folder)]
    summary.write_text("\n".join(texts))
  print(f"written to {summary}")


def jax_devices() -> str:
  """Returns number, platform and kind of JAX's devices, or why there are none."""
  code = (
    "import jax; print(len(jax.devices()), jax.default_backend(), jax.devices()[0].device_kind)"
  )
  return _printed([sys.executable, "-c", code])


def describe() -> list[str]:
  """Returns lines about the machine."""
  smi = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
  versions = [f"Python {platform.python_version()}"]
  for name in ("jax", "jaxlib", "flax", "torch"):
    try:
      versions.append(f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
      versions.append(f"no {name}")
  today = datetime.date.today().isoformat()
  system = f"{', '.join(versions)}; {os.cpu_count()} cores; {today}."
  return [f"NVIDIA's driver: {_printed(smi)}.", system]


def _printed(command: Sequence[str]) -> str:
  """Returns the last line that a command prints, or why there is none."""
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  except (OSError, subprocess.TimeoutExpired) as error:
    return f"unknown ({error})"
  return last_line(done.stdout if done.returncode == 0 else done.stderr)


def command(part: Part, folder: Path, seconds: float, minutes: float, smoke: bool) -> list[str]:
  """Returns the command of a part that has this many seconds of all the minutes."""
  filled = {
    "folder": str(folder.absolute()),
    # Some seconds of it are for the start and the end.
    "minutes": f"{max(0.1, 0.9 * seconds / 60):.1f}",
    "repeats": "3" if minutes >= 60 else "1",
  }
  extra = part.smoke if smoke else ()
  return [sys.executable, *(one.format(**filled) for one in part.command), *extra]


def run(command: Sequence[str], log: Path, seconds: float) -> str:
  """Runs a command for at most this many seconds and returns in words how it ended."""
  begun = time.monotonic()
  with log.open("w") as output:
    process = subprocess.Popen(
      command,
      stdout=output,
      stderr=subprocess.STDOUT,
      cwd=ROOT,
      env={**os.environ, "PYTHONPATH": str(ROOT)},
      start_new_session=True,
    )
    try:
      code: int | None = process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
      code = None
    finally:
      _stop(process)
  took = f"{time.monotonic() - begun:.0f} s"
  if code is None:
    return f"Stopped after {took}, as its time was over; what it had found by then:"
  return f"Took {took}." if code == 0 else f"Failed after {took}: {last_line(log.read_text())}"


def _stop(process: subprocess.Popen) -> None:
  """Interrupts the processes of a part, so that they end theirs, and kills what is left of them."""
  for number, seconds in ((signal.SIGINT, 20), (signal.SIGKILL, None)):
    try:
      os.killpg(process.pid, number)
      process.wait(seconds)
    except (ProcessLookupError, subprocess.TimeoutExpired):
      continue


def results(folder: Path) -> list[str]:
  """Returns the Markdown that a part wrote, with deeper headings, or the end of what it printed."""
  written = sorted(folder.glob("*.md"))
  if written:
    return [re.sub("^#", "###", file.read_text(), flags=re.MULTILINE) for file in written]
  lines = (folder / "log.txt").read_text(errors="replace").splitlines()
  return ["```", *lines[-40:], "```\n"]


def _from_flags(argv: Sequence[str]) -> None:
  # Also where a shell ignores interrupts, as in the background; children inherit the default.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  values = flags.FLAGS

  def work() -> None:
    refuse_positional(argv[1:])
    try:
      minutes = parse_float(values.minutes)
    except ValueError:
      minutes = 0.0
    if minutes <= 0:
      raise UserError(f"--minutes={values.minutes} is not a number above 0; give the time to take.")
    if not values.output:
      raise UserError("--output is empty; give a folder for the results.")
    main(minutes, Path(values.output), values.smoke)

  sys.exit(guard(work))


if __name__ == "__main__":
  flags.DEFINE_string("minutes", "30", "Time for all parts, a number above 0.")
  flags.DEFINE_string("output", "benchmarks/results/gpu", "The folder of the results.")
  flags.DEFINE_boolean("smoke", False, "Only show that it works, on any machine.")
  app.run(_from_flags, flags_parser=parse_flags)
