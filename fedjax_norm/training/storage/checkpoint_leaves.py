"""Converts the leaves of a run's state to the named arrays of a checkpoint, and back."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.typing import PyTree


def named_leaves(tree: PyTree) -> tuple[list[str], list[Any]]:
  """Returns the paths of a tree's leaves as text, and the leaves as JAX or NumPy arrays."""
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  leaves = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for _, leaf in flat]
  return [jax.tree_util.keystr(path) for path, _ in flat], leaves


def storage_keys(names: list[str]) -> list[str]:
  """Returns a unique file name for each path of a leaf: its number, then a readable form of it."""
  return [f"{i:04d}." + re.sub(r"\W+", ".", n).strip(".") for i, n in enumerate(names)]


def dtype_and_shape(array: Any) -> tuple[str, list[int]]:
  """Returns the dtype and the shape of an array, as types that JSON can store."""
  return str(array.dtype), list(array.shape)


def _is_split(leaf: Any) -> bool:
  """Returns whether an array is split over processes, so that no process has all of it."""
  return (
    isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated
  )


def to_host(leaf: Any) -> Any:
  """Returns a leaf as a NumPy array in host memory; unchanged if it is split over processes."""
  return leaf if _is_split(leaf) else np.asarray(leaf)


def restore_target(leaf: Any) -> Any:
  """Returns a template from which Orbax takes the shape, dtype and place of a restored leaf."""
  if _is_split(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
  return np.empty(leaf.shape, leaf.dtype)


def place_like(array: Any, leaf: Any) -> Any:
  """Returns a restored array as a JAX or NumPy array like ``leaf``, and on the same devices."""
  if not isinstance(leaf, jax.Array) or _is_split(leaf):
    return array
  if leaf.committed:
    return jax.device_put(array, leaf.sharding)
  if leaf.weak_type and leaf.ndim == 0:
    # A weakly typed scalar stays weakly typed, so that a resumed run compiles the same program.
    scalar = jnp.asarray(array.item())
    if scalar.dtype == leaf.dtype:
      return scalar
  return jnp.array(array)
