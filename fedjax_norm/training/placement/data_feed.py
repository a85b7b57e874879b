"""How the training data reaches the device: all of it once, or window by window from the host.

A window is what some rounds in a row need: the rows of their clients and at least their examples.
The next one is made ready in a thread while the rounds of this one run. Cohorts depend on the run's
key and the round alone, so a window holds whatever happens between its rounds, and where windows
are cut changes no result.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from fedjax_norm.algorithms.batch_statistics import Part
from fedjax_norm.client_mapping import ClientMapping, device_memory
from fedjax_norm.data.federated import ROW_FIELDS, FederatedData, cohorts, gather, rows
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.typing import Array, Key, PyTree

DATA_ON = ("auto", "device", "host")

# The bytes of examples that a window from the host holds, unless a single round needs more. The
# device has two of them at a time, and four while statistics are recalibrated.
_WINDOW_BUDGET = 2**28

# The share of the memory that data may fill which stays on the device.
_RESIDENT_SHARE = 0.5


class Window(NamedTuple):
  """What some rounds in a row need.

  Attributes:
    first: the first of them.
    cohorts: [n, m] client ids of the n rounds, host.
    clients: [u] the distinct ones, host; those of the first u rows of ``data``.
    slots: [R, m] int32, the rows of the cohorts; those of the first n of R rounds have a meaning.
    data: on the device; its rows and examples are padded to the same numbers in every window.
  """

  first: int
  cohorts: np.ndarray
  clients: np.ndarray
  slots: Array
  data: FederatedData

  @property
  def end(self) -> int:
    """The round after the last."""
    return self.first + len(self.cohorts)


Place = Callable[[PyTree], PyTree]
"""Puts a tree where programs want it."""


def placer(mapping: ClientMapping) -> Place:
  """Puts a tree where programs want it, so that fresh and restored arrays run one program."""
  sharding = mapping.sharding
  if sharding is None:
    return lambda tree: jax.tree.map(jnp.asarray, tree)
  if mapping.multi_process:
    return lambda tree: jax.tree.map(functools.partial(_everywhere, sharding), tree)
  return lambda tree: jax.device_put(tree, sharding)


def _everywhere(sharding: NamedSharding, leaf: Array) -> Array:
  """The same array on the devices of all processes, each of which has it already."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(_everywhere(sharding, jax.random.key_data(leaf)))
  host = np.asarray(leaf)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def choose_data_location(data_on: str, data: FederatedData, mapping: ClientMapping) -> str:
  """Where the data stays: ``'device'`` or ``'host'``.

  Args:
    data_on: either of them, or ``'auto'``: the device if the data fills at most half of its memory.
    data: host arrays.
    mapping: the mapping, each of whose devices would hold a copy.

  Raises:
    UserError: an unknown choice, or one that several processes cannot honour.
  """
  if data_on not in DATA_ON:
    raise UserError(f"unknown data_on {data_on!r}; choose one of {', '.join(DATA_ON)}.")
  if mapping.multi_process:
    if data_on == "host":
      raise UserError(
        "with several processes each device holds its own clients' data; drop --data_on=host."
      )
    return "device"
  if data_on != "auto":
    return data_on
  size = len(data.labels) * data.example_bytes
  size += data.labels.nbytes + data.ids.nbytes + data.order.nbytes
  return "device" if size <= _RESIDENT_SHARE * device_memory(mapping.devices) else "host"


class Feed:
  """The data of a run, on the device as it is needed; a context manager."""

  def __init__(
    self,
    data: FederatedData,
    mapping: ClientMapping,
    key: Key,
    *,
    on_host: bool,
    rounds: int,
    start: int,
    cohort: int,
    longest: int,
  ):
    """Finds what a window must hold.

    Args:
      data: the federation, host arrays.
      mapping: the mapping.
      key: of the run, on the device.
      on_host: whether the examples stay on the host, or are put on the device here.
      rounds: of the run.
      start: the first round that will be asked for.
      cohort: clients a round.
      longest: the rounds of a window at the most.

    Raises:
      UserError: the clients of one round hold more than the device's memory.
    """
    self._data, self._mapping, self._place = data, mapping, placer(mapping)
    self._rounds, self._start, self._cohort = rounds, start, cohort

    def drawer(count: int) -> Callable[[int], np.ndarray]:
      draw = jax.jit(lambda first: cohorts(key, first, count, data.num_clients, cohort))
      return lambda first: np.asarray(draw(np.int32(first)))

    self._resident = None if on_host else self._place(rows(data, np.arange(0)))
    self._longest, self._draw = longest, drawer(longest)
    self._budget = self._capacity = total = int(data.sizes.sum())
    if on_host:
      example = data.example_bytes
      self._budget = min(total, _WINDOW_BUDGET // example)
      draws = (self._draw(first) for first in range(0, rounds, longest))
      needs = np.concatenate([data.sizes[ids].sum(1) for ids in draws])
      most = int(needs.max())
      self._capacity = min(total, max(most, min(self._budget, longest * most)))
      if 2 * self._capacity * example > device_memory(mapping.devices):
        raise UserError(
          f"the clients of one round hold {self._capacity:,} examples or "
          f"{self._capacity * example / 1e9:.1f} GB, and two rounds of that do not fit the memory; "
          "take a smaller cohort."
        )
      if self._capacity < total:
        self._longest = int(np.clip(self._capacity // needs.min(), 1, longest))
        self._draw = drawer(self._longest)
    self._window: Window | None = None
    self._thread = ThreadPoolExecutor(1, "feed")

  def __enter__(self) -> "Feed":
    if self._start < self._rounds:
      self._prepare(self._start)
    return self

  def __exit__(self, *_) -> None:
    self._thread.shutdown(cancel_futures=True)

  def window(self, round_: int) -> Window:
    """The window that holds a round; rounds are asked for in rising order, from the start on."""
    if self._window is None or round_ == self._window.end:
      self._window = self._next.result()
      if self._window.end < self._rounds:
        self._prepare(self._window.end)
    return self._window

  def all_clients(self) -> Iterator[Part]:
    """All clients' data in parts, divided over the devices in the order of the clients' ids."""
    sizes, num_clients = self._data.sizes, self._data.num_clients
    devices = self._mapping.num_devices
    grid = np.arange(-(-num_clients // devices) * devices).reshape(devices, -1)
    held = np.append(sizes, np.zeros(grid.size - num_clients, sizes.dtype))[grid].sum(0)
    capacity = max(self._budget, int(held.max()))
    ends, cuts = np.cumsum(held), [0]
    while cuts[-1] < len(held):
      before = ends[cuts[-1]] - held[cuts[-1]]
      cuts.append(int(np.searchsorted(ends, before + capacity, "right")))
    width = int(np.diff(cuts).max())

    def read(begin: int, end: int) -> Part:
      block = grid[:, begin:end]
      here = block < num_clients
      index = np.full((devices, width), -1, np.int32)
      index[:, : end - begin][here] = np.arange(here.sum())
      return Part(self._read(block[here], capacity, index.size), self._place(index))

    blocks = itertools.pairwise(cuts)
    ahead = self._thread.submit(read, *next(blocks))
    for block in blocks:
      part, ahead = ahead.result(), self._thread.submit(read, *block)
      yield part
    yield ahead.result()

  def client_states(self, store: ClientStore, window: Window) -> PyTree:
    """The states of a window's clients, in the order of its rows, on the device."""
    room = np.resize(window.clients, window.data.num_rows)
    return self._place(store.gather(room))

  def store_states(self, store: ClientStore, window: Window, states: PyTree) -> None:
    """Takes back what the rounds of a window left."""
    store.scatter(window.clients, states)

  def _prepare(self, first: int) -> None:
    """Starts on the window of the rounds from ``first`` on."""
    # The cohorts here, for what the thread would run on the device waits behind the rounds there.
    ids = self._draw(first)[: self._rounds - first]
    clients, seen = np.unique(ids, return_index=True)
    added = np.bincount(seen // self._cohort, self._data.sizes[clients], len(ids))
    ids = ids[: np.searchsorted(np.cumsum(added), self._capacity, "right")]
    clients, inverse = np.unique(ids, return_inverse=True)
    slots = np.zeros((self._longest, self._cohort), np.int32)
    slots[: len(ids)] = inverse.reshape(ids.shape)
    room = min(self._data.num_clients, slots.size)

    def read() -> Window:
      data = self._read(clients, self._capacity, room)
      return Window(first, ids, clients, self._place(slots), data)

    self._next = self._thread.submit(read)

  def _read(self, clients: np.ndarray, capacity: int, room: int) -> FederatedData:
    """The rows of distinct clients, repeated up to ``room``, and at least their examples."""
    repeated = np.resize(np.arange(len(clients)), room)
    if self._resident is None:
      return self._place(rows(gather(self._data, clients, capacity), repeated))
    table = rows(self._data, clients[repeated])
    placed = self._place({name: getattr(table, name) for name in ROW_FIELDS})
    return self._resident._replace(**placed)
