"""Measures how fast this machine multiplies dense matrices."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_CPU_SIZE, _ACCELERATOR_SIZE = 2048, 8192
_SECONDS = 1.5


def measure() -> dict[str, float]:
  """Returns the highest rates of products of large square matrices, in 10^9 operations per second.

  JAX multiplies on its first device, and may use a lower precision for float32 on an accelerator.
  ``float32`` is the rate at full precision, on a CPU that of NumPy if it is higher, which uses all
  cores; ``float32, default precision`` is measured on accelerators only.
  """
  on_cpu = jax.default_backend() == "cpu"
  size = _CPU_SIZE if on_cpu else _ACCELERATOR_SIZE
  host = np.random.default_rng(0).standard_normal((size, size), np.float32)
  x, half = jnp.asarray(host), jnp.asarray(host, jnp.bfloat16)
  exact = functools.partial(jnp.matmul, precision="highest")
  rates = {"float32": _rate(_on_device(exact, x), size)}
  if on_cpu:
    product = np.empty_like(host)
    blas = _rate(lambda: np.matmul(host, host, out=product), size)
    rates["float32"] = max(rates["float32"], blas)
  else:
    rates["float32, default precision"] = _rate(_on_device(jnp.matmul, x), size)
  return {**rates, "bfloat16": _rate(_on_device(jnp.matmul, half), size)}


def _on_device(matmul: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array) -> Callable:
  compiled = jax.jit(matmul)
  return lambda: compiled(x, x).block_until_ready()


def _rate(multiply: Callable[[], object], size: int) -> float:
  """Returns the highest rate of ``multiply``, which multiplies two square matrices of this size."""
  multiply()
  best, end = np.inf, time.perf_counter() + _SECONDS
  while time.perf_counter() < end:
    before = time.perf_counter()
    multiply()
    best = min(best, time.perf_counter() - before)
  return 2.0 * size**3 / best / 1e9
