"""Measures dense matrix multiplication on this machine and prints JSON.

``python -m benchmarks.ceiling`` uses JAX and, on a CPU, also NumPy's BLAS, and takes the faster
one. An accelerator may multiply float32 in a lower precision by default, so both precisions are
printed there.
"""

import functools
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_CPU_SIZE, _ACCELERATOR_SIZE = 2048, 8192
_SECONDS = 1.5


def rate(multiply: Callable[[], object], size: int) -> float:
  """Returns the highest rate of a product of two square matrices, in 10^9 operations per second.

  Args:
    multiply: function that multiplies two matrices and waits for the product.
    size: number of rows and columns.
  """
  multiply()
  best, end = np.inf, time.perf_counter() + _SECONDS
  while time.perf_counter() < end:
    before = time.perf_counter()
    multiply()
    best = min(best, time.perf_counter() - before)
  return 2.0 * size**3 / best / 1e9


def _on_device(matmul: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array) -> None:
  matmul(x, x).block_until_ready()


def main() -> None:
  """Measures the rates and prints them as JSON."""
  device = jax.devices()[0]
  rng = np.random.default_rng(0)
  on_cpu = device.platform == "cpu"
  size = _CPU_SIZE if on_cpu else _ACCELERATOR_SIZE
  host = rng.standard_normal((size, size), np.float32)
  x, matmul = jnp.asarray(host), jax.jit(jnp.matmul)
  exact = jax.jit(functools.partial(jnp.matmul, precision="highest"))
  rates = {"float32": rate(functools.partial(_on_device, exact, x), size)}
  if on_cpu:
    product = np.empty_like(host)
    blas = rate(lambda: np.matmul(host, host, out=product), size)
    rates["float32"] = max(rates["float32"], blas)
  else:
    default = rate(functools.partial(_on_device, matmul, x), size)
    rates["float32, default precision"] = default
    half = x.astype(jnp.bfloat16)
    rates["bfloat16"] = rate(functools.partial(_on_device, matmul, half), size)
  print(json.dumps({"platform": device.platform, "device": device.device_kind, "gflops": rates}))


if __name__ == "__main__":
  main()
