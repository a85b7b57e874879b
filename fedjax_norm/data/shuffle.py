"""A shuffle that computes any position of a permutation of any size, without making it whole.

Swap-or-not (Hoang, Morris, Rogaway 2012): in each of a number of passes, position x is paired with
K - x mod n for a random K, and one random bit a pair says whether the two change places. Every pass
is a permutation, so the whole is one, exactly, whatever the quality of the bits. It costs O(1) a
position and n may be traced, so that a client draws a batch, or the server a cohort, at a cost that
depends neither on the client's number of examples nor on the population.
"""

import jax
import jax.numpy as jnp

from fedjax_norm.typing import Array, Key

# 2 log2 n mix a few thousand well; 20,000 cohorts of 100,000 clients showed no bias either.
_PASSES = 24


def permuted(key: Key, positions: Array, n: Array | int) -> Array:
  """Where a random permutation of 0 ... n - 1 sends some positions.

  Args:
    key: chooses the permutation.
    positions: int32, any shape; those outside [0, n) give values without meaning.
    n: the size, int32 scalar, at least 1, below 2^31.

  Returns:
    int32 of the positions' shape.
  """
  n = jnp.asarray(n, jnp.uint32)
  secrets = jax.random.bits(key, (_PASSES, 2), jnp.uint32)

  def one_pass(index: Array, x: Array) -> Array:
    pivot, salt = secrets[index]
    pivot %= n
    partner = jnp.where(x > pivot, n + pivot - x, pivot - x)
    swap = _mix(jnp.maximum(x, partner) ^ salt) & 1
    return jnp.where(swap == 1, partner, x)

  # A CPU compiles the loop in half the time and runs it as fast; an accelerator fuses the passes.
  unroll = jax.default_backend() != "cpu"
  x = jax.lax.fori_loop(0, _PASSES, one_pass, positions.astype(jnp.uint32), unroll=unroll)
  return x.astype(jnp.int32)


def _mix(x: Array) -> Array:
  """An integer hash with good avalanche (the finalizer of MurmurHash3)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
