"""What this machine has, and how it runs a federation: ``python -m experiments.machine``.

Prints JAX's devices, the versions of the packages, the mapping of clients to devices that a run of
``experiments.run`` with the same flags would have, and the measured rate of dense matrix products
(on the CPU, that of float32 is of all cores, and that of bfloat16 of one device). Nothing is
trained and no folder is written: ``--method``, ``--model``, ``--clients`` and other flags only
describe the run.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.extend import backend

from fedjax_norm import client_mapping, host_memory
from fedjax_norm.cli import app, matmul_rates, train
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.training.terminal.tables import human_bytes, summary_table

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_CUDA_13_DRIVER = 580  # the first driver for CUDA 13


def run(config: Any) -> None:
  """Prints the machine and how it would run ``config``, which ``ANY_METHOD`` chooses."""
  train.check(config)
  config, task = train.prepare(config, train.load(config))
  program, driver = train.make(task, config), _nvidia_driver()
  pairs = [
    ("devices", _devices()),
    ("Python", platform.python_version()),
    *((name, importlib.metadata.version(name)) for name in _PACKAGES),
    ("JAX's platform", " ".join(backend.get_backend().platform_version.split())),
    *([("NVIDIA driver", driver)] if driver else []),
    ("host", f"{len(os.sched_getaffinity(0))} cores, {human_bytes(host_memory.total_bytes())}"),
    *(("note", note) for note in notes(jax.default_backend(), driver)),
    ("clients per round", f"{config.cohort:,} of {task.data.num_clients:,}"),
    ("model", f"{config.model_name}, {config.norm}"),
    ("mapping", program.mapping.describe(program.unequal_steps, config.cohort)),
    *(("reason", reason) for reason in _reasons(program.mapping, config)),
    *((f"matmul, {name}", f"{rate:,.0f} GFLOP/s") for name, rate in matmul_rates.measure().items()),
    ("note", "the rates are as measured now; other programs on the machine lower them"),
  ]
  print(summary_table("machine", pairs))


def _reasons(mapping: client_mapping.ClientMapping, config: Any) -> Iterator[str]:
  """Yields why clients run in parallel or one after another, unless the flags say so."""
  if mapping.lockstep:
    yield "the norm merges statistics across clients, so all run in lock-step"
  elif config.backend != "auto" or config.chunk is not None:
    return
  elif jax.default_backend() == "cpu":
    yield "on a CPU, several clients in parallel are no faster than one after another"
  else:
    yield "an accelerator runs as many clients in parallel as fit and keep it busy"


def _devices() -> str:
  """Returns the number and kind of JAX's devices, and the memory that JAX has of each."""
  devices = jax.devices()
  memory = human_bytes(client_mapping.device_memory(devices))
  name, kind = devices[0].platform, devices[0].device_kind
  named = name if kind == name else f"{name} ({kind})"
  return f"{len(devices)} {named}, {memory} of memory each"


def _nvidia_driver() -> str | None:
  """Returns the version of this machine's NVIDIA driver; None without one."""
  text, file = "", Path("/proc/driver/nvidia/version")
  if tool := shutil.which("nvidia-smi"):
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
  elif file.is_file():
    text = file.read_text()
  version = re.search(r"\d+(\.\d+)+", text)
  return version[0] if version else None


def notes(backend: str, driver: str | None) -> Iterator[str]:
  """Yields what keeps JAX from the machine's GPU.

  Args:
    backend: JAX's default backend.
    driver: version of the NVIDIA driver, if there is one.
  """
  if driver is None or backend != "cpu":
    return
  if platforms := os.environ.get("JAX_PLATFORMS"):
    yield f"JAX does not use this machine's NVIDIA GPU, because JAX_PLATFORMS is {platforms!r}."
    return
  extra = "cuda13" if int(driver.partition(".")[0]) >= _CUDA_13_DRIVER else "cuda12"
  yield (
    "this machine has an NVIDIA GPU, but JAX computes on the CPU; install JAX's CUDA packages: "
    f'pip install -e ".[{extra}]"'
  )


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(run, ANY_METHOD, __doc__, "run")
