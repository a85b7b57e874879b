"""The clients' lasting states: on the host for the population, on the device for an interval."""

import jax
import numpy as np

from fedjax_norm.typing import PyTree


def evenly_spaced(ids: np.ndarray, count: int) -> np.ndarray:
  """At most ``count`` of some ids, spread evenly over them."""
  return ids[np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)]


class ClientStore:
  """One state per client, as host arrays; empty when clients keep nothing.

  Attributes:
    arrays: a client's state with a leading axis, [K, ...].
    seen: [K] bool, who has taken part.
  """

  def __init__(self, one: PyTree, num_clients: int):
    """Starts every client with the same state.

    Args:
      one: one client's state.
      num_clients: K.
    """

    def repeat(leaf):
      leaf = np.asarray(leaf)
      # Zeroed memory is not touched before a client is, so that momenta of a large population cost
      # what the clients seen so far do.
      stacked = np.zeros((num_clients, *leaf.shape), leaf.dtype)
      if leaf.any():
        stacked[:] = leaf
      return stacked

    self.arrays = jax.tree.map(repeat, one)
    self.seen = np.zeros(num_clients, bool)

  @property
  def client_bytes(self) -> int:
    """The bytes of one client's state."""
    return sum(a[0].nbytes for a in jax.tree.leaves(self.arrays))

  def gather(self, ids: np.ndarray) -> PyTree:
    """The states of some clients, [len(ids), ...]."""
    return jax.tree.map(lambda a: a[ids], self.arrays)

  def scatter(self, ids: np.ndarray, states: PyTree) -> None:
    """Takes back the states of some clients (distinct ids); who took part the caller notes."""

    def put(array, rows):
      array[ids] = np.asarray(rows)[: len(ids)]

    jax.tree.map(put, self.arrays, states)

  def saved(self) -> PyTree:
    """What a checkpoint holds."""
    return self.arrays, self.seen

  def restore(self, saved: PyTree) -> None:
    """Takes back what :meth:`saved` gave."""
    self.arrays, self.seen = jax.tree.map(np.array, saved)

  def models(self, ids: np.ndarray) -> tuple[PyTree, np.ndarray]:
    """What the models of some clients are made of, in an order that suits the devices.

    Returns:
      (their states [n, ...], the position in ``ids`` of each, or -1 for a row that is nobody's).
    """
    return self.gather(ids), np.arange(len(ids))
