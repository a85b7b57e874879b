"""Runs the tests on any device: XLA flags, numerical precision, and marks for CPU devices."""

import os
import re
import subprocess
import sys

import jax
import pytest

from fedjax_norm import client_mapping

# Programs of tests run for moments and are compiled for seconds, here and in processes of theirs.
# On a CPU, three quarters of that are the fusion emitters; a module in one part is the quickest on
# few cores. On a GPU, a program that was not tuned, of deterministic operations, repeats its bits.
_WANTED = (
  "--xla_backend_optimization_level=0",
  "--xla_cpu_use_fusion_emitters=false",
  "--xla_cpu_parallel_codegen_split_count=1",
  "--xla_gpu_autotune_level=0",
  "--xla_gpu_deterministic_ops=true",
)
_ASKED = "XLA_FLAGS_OF_TESTS"

PRODUCT_ERROR = {"cpu": 1e-5, "gpu": 4e-3, "tpu": 3e-2}
"""By platform, the error of float32 products at JAX's default precision, if results are about 1.

A GPU rounds the factors to TF32, with 10 bits (a relative error of up to 2^-11), and a TPU to
bfloat16, with 7 bits.
"""


def set_environment() -> None:
  """Adds to ``XLA_FLAGS`` the flags for tests that XLA knows; an unknown one ends the process.

  A child process asks XLA. Processes that this one starts, such as workers of xdist, inherit the
  flags and do not ask again.
  """
  if _ASKED in os.environ:
    return
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU
  given = os.environ.get("XLA_FLAGS", "")
  asked = {"XLA_FLAGS": " ".join(_WANTED), "JAX_PLATFORMS": "cpu"}
  child = subprocess.run(
    [sys.executable, "-c", "import jax; jax.devices()"],
    env={**os.environ, **asked},
    capture_output=True,
    text=True,
    check=False,
  )
  unknown = re.findall(r"--xla_\w+=\w+", child.stderr) if child.returncode else []
  known = [flag for flag in _WANTED if flag not in unknown]
  os.environ["XLA_FLAGS"] = " ".join((given, *known)).strip()
  os.environ[_ASKED] = "set"


def set_host_devices() -> None:
  """Divides the CPU into two devices, or into as many as ``JAX_NUM_CPU_DEVICES`` says.

  With one device, binaries accept any ``--host_devices``, as they do on an accelerator.
  """
  count = int(os.environ.get("JAX_NUM_CPU_DEVICES", "2"))
  client_mapping.use_host_devices(count)
  if count == 1:
    client_mapping.use_host_devices = lambda count: None


def prepare() -> None:
  """Makes an accelerator compute in full float32, here and in processes of tests.

  The tolerances of the tests are those of float32; ``PRODUCT_ERROR`` is for default precision.
  """
  if jax.default_backend() != "cpu":
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    jax.config.update("jax_default_matmul_precision", "highest")


def require_host_devices() -> None:
  """Skips the current test unless JAX computes on several CPU devices by default."""
  if jax.default_backend() != "cpu" or jax.device_count() < 2:
    device = f"{jax.device_count()} {jax.default_backend()} device(s)"
    pytest.skip(f"needs two CPU devices; JAX computes on {device}")
