"""The leaves of a pytree: addressed by path, and counted in bytes."""

from collections.abc import Collection

import jax
import numpy as np
from flax import traverse_util

from fedjax_norm.typing import Array, PyTree


def num_bytes(tree: PyTree) -> int:
  """Returns the bytes of all leaves (arrays or their shapes), without any encoding."""
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def flatten(tree: PyTree) -> dict[str, Array]:
  """Returns a nested dict as one dict with the paths 'a/b/c' as keys."""
  return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: dict[str, Array]) -> PyTree:
  """Returns the nested dict of a flat one: the inverse of :func:`flatten`."""
  return traverse_util.unflatten_dict(flat, sep="/")


def pick(tree: PyTree, paths: Collection[str]) -> dict[str, Array]:
  """Returns the leaves at the given paths, as a flat dict."""
  flat = flatten(tree) if paths else {}
  return {path: flat[path] for path in paths}


def put(tree: PyTree, leaves: dict[str, Array]) -> PyTree:
  """Returns the tree with the leaves at the given paths replaced."""
  return unflatten({**flatten(tree), **leaves}) if leaves else tree
