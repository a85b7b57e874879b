"""Measures dense matrix multiplication on this machine and prints JSON.

``python -m benchmarks.ceiling`` uses JAX and, on a CPU, also NumPy's BLAS, and takes the faster
one. An accelerator may multiply float32 in a lower precision by default, so both precisions are
printed there.
"""

import json

import jax

from fedjax_norm.cli import matmul_rates


def main() -> None:
  """Measures the rates and prints them as JSON."""
  device, rates = jax.devices()[0], matmul_rates.measure()
  print(json.dumps({"platform": device.platform, "device": device.device_kind, "gflops": rates}))


if __name__ == "__main__":
  main()
