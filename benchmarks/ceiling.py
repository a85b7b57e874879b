"""How fast the machine multiplies dense matrices: ``python -m benchmarks.ceiling`` prints JSON.

NumPy's BLAS on a CPU, whose threads ``OMP_NUM_THREADS`` sets; JAX on an accelerator.
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
  """The best 10^9 operations a second of a product of two square matrices.

  Args:
    multiply: multiplies them and waits for the product.
    size: of their sides.
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
  """Measures and prints."""
  device = jax.devices()[0]
  rng = np.random.default_rng(0)
  if device.platform == "cpu":
    size = _CPU_SIZE
    a, b = rng.standard_normal((2, size, size), np.float32)
    product = np.empty_like(a)
    multiply: dict[str, Callable[[], object]] = {"float32": lambda: np.matmul(a, b, out=product)}
  else:
    size = _ACCELERATOR_SIZE
    x = jnp.asarray(rng.standard_normal((size, size), np.float32))
    matmul = jax.jit(jnp.matmul)
    multiply = {
      str(v.dtype): functools.partial(_on_device, matmul, v) for v in (x, x.astype(jnp.bfloat16))
    }
  rates = {name: rate(run, size) for name, run in multiply.items()}
  print(json.dumps({"platform": device.platform, "device": device.device_kind, "gflops": rates}))


if __name__ == "__main__":
  main()
