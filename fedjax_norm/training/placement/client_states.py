"""Stores the state of every client of the population on the host."""

from typing import Any

import jax
import numpy as np

from fedjax_norm.typing import Array, PyTree


def evenly_spaced(ids: np.ndarray, count: int) -> np.ndarray:
  """Returns ``count`` of the ids at equal distances, or all ids if there are fewer."""
  return ids[np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)]


class ClientStore:
  """One state per client, as host arrays; empty for algorithms without client states.

  Attributes:
    arrays: stacked client states, [K, ...].
    seen: [K] bool, whether each client has taken part in a round.
  """

  def __init__(self, one: PyTree, num_clients: int):
    """Initializes each of the K = ``num_clients`` states with ``one``."""

    def repeat(leaf: Any) -> np.ndarray:
      leaf = np.asarray(leaf)
      # The operating system allocates zeroed memory on first use: the momenta of a large
      # population take memory only for the clients that have taken part.
      stacked = np.zeros((num_clients, *leaf.shape), leaf.dtype)
      if leaf.any():
        stacked[:] = leaf
      return stacked

    self.arrays = jax.tree.map(repeat, one)
    self.seen = np.zeros(num_clients, bool)

  @property
  def client_bytes(self) -> int:
    """The number of bytes of one client state."""
    return sum(a[0].nbytes for a in jax.tree.leaves(self.arrays))

  def gather(self, ids: np.ndarray) -> PyTree:
    """Returns the states of the clients ``ids`` [n], stacked to [n, ...]."""
    return jax.tree.map(lambda a: a[ids], self.arrays)

  def scatter(self, ids: np.ndarray, states: PyTree) -> None:
    """Replaces the states of the distinct clients ``ids``; the caller updates ``seen``."""

    def put(array: np.ndarray, rows: Array) -> None:
      array[ids] = np.asarray(rows)[: len(ids)]

    jax.tree.map(put, self.arrays, states)

  def saved(self) -> PyTree:
    """Returns what a checkpoint stores: (states, seen)."""
    return self.arrays, self.seen

  def restore(self, saved: PyTree) -> None:
    """Sets states and ``seen`` to a result of :meth:`saved`."""
    self.arrays, self.seen = jax.tree.map(np.array, saved)

  def models(self, ids: np.ndarray) -> tuple[PyTree, np.ndarray]:
    """Returns the states of the clients ``ids`` for evaluation.

    Returns:
      (states [n, ...], index in ``ids`` of each row's client, or -1 for a padding row).
    """
    return self.gather(ids), np.arange(len(ids))
