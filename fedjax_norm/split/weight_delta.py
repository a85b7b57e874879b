"""Exact differences between weights and initial weights (paper 003, sec. 3.4)."""

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_norm.typing import Array, PyTree

_UINT = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def difference(now: PyTree, start: PyTree) -> PyTree:
  """Returns the differences between two trees of arrays, without rounding.

  The bit patterns of the elements are subtracted as unsigned integers, modulo 2^bits.

  Args:
    now: arrays with elements of 1, 2 or 4 bytes.
    start: arrays with the shapes and dtypes of ``now``.
  """
  return jax.tree.map(lambda a, b: _bits(a) - _bits(b), now, start)


def restore(difference: PyTree, start: PyTree) -> PyTree:
  """Returns ``now`` from the result of ``difference(now, start)`` and ``start``, bit for bit."""

  def leaf(d: Array, b: Array) -> Array:
    return lax.bitcast_convert_type(_bits(b) + jnp.asarray(d), jnp.asarray(b).dtype)

  return jax.tree.map(leaf, difference, start)


def _bits(a: Array) -> Array:
  a = jnp.asarray(a)
  return lax.bitcast_convert_type(a, _UINT[a.dtype.itemsize])
