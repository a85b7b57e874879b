"""The client states and training data of a run of several processes."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_norm.algorithms.batch_statistics import Part
from fedjax_norm.client_mapping import DEVICES, ClientMapping, device_memory
from fedjax_norm.data.federated import FederatedData, cohorts, gather, rows
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.client_placement import Placement
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.data_feed import Window, placer
from fedjax_norm.typing import Array, Key, PyTree


def local_devices(mapping: ClientMapping) -> list[tuple[int, jax.Device]]:
  """This process's devices with their places among all."""
  mine = jax.process_index()
  return [(i, device) for i, device in enumerate(mapping.devices) if device.process_index == mine]


def global_rows(mapping: ClientMapping, own: PyTree) -> PyTree:
  """One array of all processes from the rows of each.

  Args:
    mapping: the mapping.
    own: host arrays of this process's rows, the same number for each of :func:`local_devices`.
  """
  own_count = len(local_devices(mapping))

  def held(rows):
    placed = [
      jax.device_put(part, device)
      for part, (_, device) in zip(np.split(rows, own_count), local_devices(mapping), strict=True)
    ]
    shape = (mapping.num_devices * (len(rows) // own_count), *rows.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, mapping.row_sharding, placed)

  return jax.tree.map(held, own)


def local_rows(held: PyTree) -> PyTree:
  """The rows that this process holds of an array, on the host: see :func:`global_rows`."""

  def own(array):
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])

  return jax.tree.map(own, held)


class DistributedClientStore(ClientStore):
  """The states of this process's own clients; a row each, ``most`` a device."""

  def __init__(self, one: PyTree, mapping: ClientMapping, homes: Placement, num_clients: int):
    """Starts every client with the same state."""
    self._mapping, self._homes, self._take = mapping, homes, jax.jit(mapping.take)
    super().__init__(one, len(local_devices(mapping)) * homes.most)
    self.seen = np.zeros(num_clients, bool)

  def saved(self) -> PyTree:
    """What a checkpoint holds; every process writes its own."""
    return global_rows(self._mapping, self.arrays), self.seen

  def restore(self, saved: PyTree) -> None:
    """Takes back what :meth:`saved` gave."""
    held, seen = saved
    self.arrays, self.seen = local_rows(held), np.array(seen)

  def models(self, ids: np.ndarray) -> tuple[PyTree, np.ndarray]:
    """The states of some clients where they live, and whose each is (see ``ClientStore``)."""
    slots, positions = self._homes.layout(ids, min(self._homes.most, len(ids)))
    states = global_rows(self._mapping, self.arrays)
    return self._take(states, place_slots(self._mapping, slots)), positions


def place_slots(mapping: ClientMapping, slots: np.ndarray) -> Array:
  """Places [..., D * width] that all processes know, each device's on it."""
  assert mapping.mesh
  sharding = NamedSharding(mapping.mesh, P(*[None] * (slots.ndim - 1), DEVICES))
  return jax.make_array_from_callback(slots.shape, sharding, lambda index: slots[index])


class DistributedFeed:
  """The data of a run of several processes, where it stays; a context manager like ``Feed``."""

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
  ):
    """Puts each client's examples on its device.

    Args:
      data: the federation, host arrays, of whose examples only this process's are read.
      mapping: the mapping.
      key: of the run, on the devices.
      rounds: of the run.
      cohort: clients a round.
      longest: the rounds of a window at the most.
      client_bytes: of a client's lasting state, of which each device holds its clients' too.

    Raises:
      UserError: a device's memory does not global_rows its clients.
    """
    assert mapping.devices == jax.devices(), "local_examples takes the devices in their own order"
    self._mapping, self._rounds, self._cohort = mapping, rounds, cohort
    self._longest = longest
    self._homes = Placement(data.num_clients, mapping.num_devices)
    draw = jax.jit(lambda first: cohorts(key, first, longest, data.num_clients, cohort))
    self._draw = lambda first: np.asarray(draw(np.int32(first)))[: rounds - first]
    if cohort == data.num_clients:
      self._width = self._homes.most
    else:
      draws = (self._draw(first) for first in range(0, rounds, longest))
      self._width = max(int(self._homes.counts(ids).max()) for ids in draws)

    every = [self._homes.clients(device) for device in range(mapping.num_devices)]
    capacity = max(int(data.sizes[ids].sum()) for ids in every)
    needed = capacity * data.example_bytes + 2 * self._homes.most * client_bytes
    if needed > device_memory(mapping.devices):
      raise UserError(
        f"the clients of one device need {needed / 1e9:.1f} GB, which do not fit its memory; use "
        "more processes or devices, for with several processes all data stays on them."
      )

    def part(device: int) -> FederatedData:
      own = gather(data, every[device], capacity)
      return rows(own, np.resize(np.arange(len(every[device])), self._homes.most))

    parts = [part(device) for device, _ in local_devices(mapping)]
    self._data = global_rows(mapping, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
    grid = [np.append(np.arange(len(e)), [-1] * (self._homes.most - len(e))) for e in every]
    self._everyone = Part(self._data, placer(mapping)(np.stack(grid).astype(np.int32)))
    self._window: Window | None = None

  def __enter__(self) -> "DistributedFeed":
    return self

  def __exit__(self, *_: Any) -> None:
    pass

  def window(self, round_: int) -> Window:
    """The window that holds a round; rounds are asked for in rising order."""
    if self._window is None or round_ == self._window.end:
      ids = self._draw(round_)
      slots = np.full((self._longest, self._mapping.num_devices * self._width), -1, np.int32)
      for row, chosen in zip(slots, ids, strict=False):
        row[:] = self._homes.layout(chosen, self._width)[0]
      placed = place_slots(self._mapping, slots)
      self._window = Window(round_, ids, np.unique(ids), placed, self._data)
    return self._window

  def all_clients(self) -> Iterator[Part]:
    """All clients' data; each device goes through its own."""
    yield self._everyone

  def client_states(self, store: ClientStore, window: Window) -> PyTree:
    """The clients' states where they live."""
    del window
    return global_rows(self._mapping, store.arrays)

  def store_states(self, store: ClientStore, window: Window, states: PyTree) -> None:
    """Takes back what the rounds of a window left."""
    del window
    store.arrays = local_rows(states)
