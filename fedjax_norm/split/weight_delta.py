"""Weights as what has been added to those of a seed (paper 003, sec. 3.4), without rounding."""

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_norm.typing import Array, PyTree

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def difference(now: PyTree, start: PyTree) -> PyTree:
  """The difference of the bit patterns as unsigned integers, modulo their range.

  d = bits(now) - bits(start); floats would round, integers do not.

  Args:
    now: arrays of 1, 2 or 4 bytes an element.
    start: of the same shapes and dtypes.
  """
  return jax.tree.map(lambda a, b: _bits(a) - _bits(b), now, start)


def restore(difference: PyTree, start: PyTree) -> PyTree:
  """The inverse: start and difference give exactly what was."""

  def leaf(d: Array, b: Array) -> Array:
    return lax.bitcast_convert_type(_bits(b) + jnp.asarray(d), jnp.asarray(b).dtype)

  return jax.tree.map(leaf, difference, start)


def _bits(a: Array) -> Array:
  a = jnp.asarray(a)
  return lax.bitcast_convert_type(a, _WORDS[a.dtype.itemsize])
