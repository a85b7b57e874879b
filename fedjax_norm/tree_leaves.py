"""The leaves (arrays) of nested dicts: read and replaced by path, and measured in bytes."""

from collections.abc import Collection

import jax
import numpy as np
from flax import traverse_util

from fedjax_norm.typing import Array, PyTree


def num_bytes(tree: PyTree) -> int:
  """Returns the total size in bytes of a pytree of arrays or ``jax.ShapeDtypeStruct``s."""
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def flatten(tree: PyTree) -> dict[str, Array]:
  """Returns the leaves of a nested dict as one flat dict with paths such as 'a/b/c' as keys."""
  return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: dict[str, Array]) -> PyTree:
  """Returns the nested dict that :func:`flatten` turns into the flat dict ``flat``."""
  return traverse_util.unflatten_dict(flat, sep="/")


def pick(tree: PyTree, paths: Collection[str]) -> dict[str, Array]:
  """Returns the leaves at the given paths 'a/b/c' of a nested dict: {path: leaf}."""
  flat = flatten(tree) if paths else {}
  return {path: flat[path] for path in paths}


def put(tree: PyTree, leaves: dict[str, Array]) -> PyTree:
  """Returns a nested dict in which ``leaves`` {path: leaf} replace the leaves at their paths."""
  return unflatten({**flatten(tree), **leaves}) if leaves else tree
