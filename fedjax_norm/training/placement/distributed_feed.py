"""Client states and training data of a run of several processes.

Each process has only the examples and the states of the clients on its devices.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from fedjax_norm.algorithms.batch_statistics import DataPart
from fedjax_norm.client_mapping import ClientMapping, device_memory
from fedjax_norm.data.cohorts import cohorts
from fedjax_norm.data.federated import FederatedData, gather, rows
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.client_placement import Placement
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.data_feed import Window
from fedjax_norm.training.placement.device_arrays import (
  divide_slots,
  global_rows,
  local_devices,
  local_rows,
  placer,
)
from fedjax_norm.typing import Key, PyTree


class DistributedClientStore(ClientStore):
  """The states of the clients on this process's devices: ``max_clients`` rows per device."""

  def __init__(self, one: PyTree, mapping: ClientMapping, placement: Placement, num_clients: int):
    """Initializes every client with the state ``one``."""
    self._mapping, self._placement, self._take = mapping, placement, jax.jit(mapping.take)
    super().__init__(one, len(local_devices(mapping)) * placement.max_clients)
    self.seen = np.zeros(num_clients, bool)

  def saved(self) -> PyTree:
    """Returns what a checkpoint stores; every process writes the states of its clients."""
    return global_rows(self._mapping, self.arrays), self.seen

  def restore(self, saved: PyTree) -> None:
    """Sets the states to a result of :meth:`saved`."""
    arrays, seen = saved
    self.arrays, self.seen = local_rows(arrays), np.array(seen)

  def models(self, ids: np.ndarray) -> tuple[PyTree, np.ndarray]:
    """Returns the states of the clients ``ids`` for evaluation, each on the client's device."""
    slots, positions = self._placement.layout(ids, min(self._placement.max_clients, len(ids)))
    states = global_rows(self._mapping, self.arrays)
    return self._take(states, divide_slots(self._mapping, slots)), positions


class DistributedFeed(contextlib.AbstractContextManager):
  """Supplies the training data of a run of several processes; replaces ``Feed``."""

  def __init__(
    self,
    data: FederatedData,
    mapping: ClientMapping,
    key: Key,
    *,
    rounds: int,
    cohort: int,
    longest: int,
    client_bytes: int,
    steps: np.ndarray | None = None,
  ):
    """Puts the examples of this process's clients on each client's device.

    ``client_bytes`` is the size of a client state; see ``Feed`` for the other arguments. A client
    stays on its device, so that only the order of a device's clients depends on their ``steps``.

    Raises:
      UserError: the examples and states of a device's clients exceed the device's memory.
    """
    assert mapping.devices == jax.devices(), "local_examples relies on the order of jax.devices()"
    self._mapping, self._longest, self._steps = mapping, longest, steps
    self._placement = Placement(data.num_clients, mapping.num_devices)
    draw = jax.jit(lambda first: cohorts(key, first, longest, data.num_clients, cohort))
    self._draw = lambda first: np.asarray(draw(np.int32(first)))[: rounds - first]
    max_clients = self._placement.max_clients
    if cohort == data.num_clients:
      self._width = max_clients
    else:
      draws = (self._draw(first) for first in range(0, rounds, longest))
      self._width = max(int(self._placement.counts(ids).max()) for ids in draws)

    by_device = [self._placement.clients(device) for device in range(mapping.num_devices)]
    capacity = max(int(data.sizes[ids].sum()) for ids in by_device)
    needed = capacity * data.example_bytes + 2 * max_clients * client_bytes
    if needed > device_memory(mapping.devices):
      raise UserError(
        f"the clients of one device need {needed / 1e9:.1f} GB, more than its memory; use more "
        "processes or devices, because with several processes all data stays on the devices."
      )

    def device_data(device: int) -> FederatedData:
      clients = gather(data, by_device[device], capacity)
      return rows(clients, np.resize(np.arange(len(by_device[device])), max_clients))

    parts = [device_data(device) for device, _ in local_devices(mapping)]
    self._data = global_rows(mapping, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
    grid = [np.append(np.arange(len(ids)), [-1] * (max_clients - len(ids))) for ids in by_device]
    self._all_clients = DataPart(self._data, placer(mapping)(np.stack(grid).astype(np.int32)))
    self._window: Window | None = None

  def __exit__(self, *_: Any) -> None:
    pass

  def window(self, round_: int) -> Window:
    """Returns the window with ``round_``: the window of the last call, or the next one."""
    if self._window is None or round_ == self._window.end:
      ids = self._draw(round_)
      slots = np.full((self._longest, self._mapping.num_devices * self._width), -1, np.int32)
      for row, cohort in zip(slots, ids, strict=False):
        if self._steps is not None:  # similar clients then share a chunk
          cohort = cohort[np.argsort(-self._steps[cohort], kind="stable")]
        row[:] = self._placement.layout(cohort, self._width)[0]
      placed = divide_slots(self._mapping, slots)
      self._window = Window(round_, ids, np.unique(ids), placed, self._data)
    return self._window

  def all_clients(self) -> Iterator[DataPart]:
    """Yields the data of all clients as one part, with each client on the client's device."""
    yield self._all_clients

  def client_states(self, store: ClientStore, window: Window) -> PyTree:
    """Returns the states of all clients, each on the client's device."""
    return global_rows(self._mapping, store.arrays)

  def store_states(self, store: ClientStore, window: Window, states: PyTree) -> None:
    """Writes the client states after the rounds of a window back to the store."""
    store.arrays = local_rows(states)
