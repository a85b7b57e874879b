"""Arithmetic on pytrees, and how a tree is split and merged by path."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fedjax_norm.typing import Array, PyTree


def add(a: PyTree, b: PyTree) -> PyTree:
  """a + b, leaf by leaf."""
  return jax.tree.map(jnp.add, a, b)


def subtract(a: PyTree, b: PyTree) -> PyTree:
  """a - b, leaf by leaf."""
  return jax.tree.map(jnp.subtract, a, b)


def scale(tree: PyTree, factor: Array | float) -> PyTree:
  """factor * tree, leaf by leaf."""
  return jax.tree.map(lambda leaf: factor * leaf, tree)


def squared_norm(tree: PyTree) -> Array:
  """The sum of the squares of all elements, a scalar."""
  return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)), jnp.float32(0))


def select(condition: Array, a: PyTree, b: PyTree) -> PyTree:
  """A where a scalar condition holds, else b."""
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def size(tree: PyTree) -> int:
  """The number of elements."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: PyTree) -> int:
  """The bytes of all leaves as they are, without any encoding."""
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def flatten(tree: PyTree) -> dict[str, Array]:
  """A nested dict as one dict by path, 'a/b/c'."""
  return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: dict[str, Array]) -> PyTree:
  """The inverse of :func:`flatten`."""
  return traverse_util.unflatten_dict(flat, sep="/")


def pick(tree: PyTree, paths: Collection[str]) -> dict[str, Array]:
  """The leaves at some paths, as a flat dict."""
  flat = flatten(tree) if paths else {}
  return {path: flat[path] for path in paths}


def put(tree: PyTree, leaves: dict[str, Array]) -> PyTree:
  """The tree with the leaves at some paths replaced."""
  return unflatten({**flatten(tree), **leaves}) if leaves else tree
