"""Supplies the training data on the device: all of it once, or in windows from the host.

A window is the data of the clients that take part in consecutive rounds. A thread prepares the next
window while the rounds of the current one run. Cohorts depend only on the key of the run and the
round, so the division into windows changes no result.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_norm.algorithms.batch_statistics import DataPart
from fedjax_norm.client_mapping import ClientMapping, device_memory
from fedjax_norm.data.cohorts import cohorts
from fedjax_norm.data.federated import ROW_FIELDS, FederatedData, gather, rows
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.typing import Array, Key, PyTree

DATA_ON = ("auto", "device", "host")

# Maximum bytes of examples of a window from the host, unless a single round needs more. The device
# has two windows at a time, and four while batch statistics are recalibrated.
_WINDOW_BUDGET = 2**28

# Maximum share of the device's memory for data that stays on the device with data_on='auto'.
_RESIDENT_SHARE = 0.5


# Compiled once for all runs with the same numbers.
_draw = jax.jit(cohorts, static_argnums=(2, 3, 4))


class Window(NamedTuple):
  """The data of n consecutive rounds.

  Attributes:
    first: first round.
    cohorts: [n, m] client ids of each round, host.
    clients: [u] distinct client ids, host; client ``clients[i]`` is row i of ``data``.
    slots: [R, s] int32, rows of each round's clients in ``data``; -1 is padding. R is the maximum
      of n. If clients take unequal steps, ``ClientMapping.arrange`` says which slot a client has.
    data: federation on the device; rows and examples are padded to equal numbers in all windows.
  """

  first: int
  cohorts: np.ndarray
  clients: np.ndarray
  slots: Array
  data: FederatedData

  @property
  def end(self) -> int:
    """The round after the last one of the window."""
    return self.first + len(self.cohorts)


def choose_data_location(data_on: str, data: FederatedData, mapping: ClientMapping) -> str:
  """Returns where the training data stays: ``'device'`` or ``'host'``.

  ``'auto'`` chooses the device if the data fills at most half of each device's memory.

  Raises:
    UserError: ``data_on`` is unknown, or it is ``'host'`` in a run of several processes.
  """
  if data_on not in DATA_ON:
    raise UserError(f"unknown data_on {data_on!r}; choose one of {', '.join(DATA_ON)}.")
  if mapping.multi_process:
    if data_on == "host":
      raise UserError(
        "with several processes the data stays on the clients' devices; drop --data_on=host."
      )
    return "device"
  if data_on != "auto":
    return data_on
  size = len(data.labels) * data.example_bytes
  size += data.labels.nbytes + data.ids.nbytes + data.order.nbytes
  return "device" if size <= _RESIDENT_SHARE * device_memory(mapping.devices) else "host"


class Feed:
  """Supplies the training data of a run in one process; a context manager."""

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
    steps: np.ndarray | None = None,
  ):
    """Computes the size of a window; without ``on_host``, puts all examples on the device.

    ``data`` is on the host, and the run's ``key`` on the device. The first call of :meth:`window`
    is for round ``start``; a window has at most ``longest`` rounds. With the local ``steps`` [K] of
    all clients, the mapping arranges each round's clients by them.

    Raises:
      UserError: the examples of two rounds exceed the device's memory.
    """
    self._data, self._mapping, self._place = data, mapping, placer(mapping)
    self._rounds, self._start, self._cohort, self._steps = rounds, start, cohort, steps

    def drawer(count: int) -> Callable[[int], np.ndarray]:
      return lambda first: np.asarray(_draw(key, np.int32(first), count, data.num_clients, cohort))

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
          f"the clients of one round have {self._capacity:,} examples or "
          f"{self._capacity * example / 1e9:.1f} GB, and the device's memory is too small for two "
          "such rounds; lower --cohort."
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

  def __exit__(self, *_: Any) -> None:
    self._thread.shutdown(cancel_futures=True)

  def window(self, round_: int) -> Window:
    """Returns the window with ``round_``: the window of the last call, or the next one."""
    if self._window is None or round_ == self._window.end:
      self._window = self._next.result()
      if self._window.end < self._rounds:
        self._prepare(self._window.end)
    return self._window

  def all_clients(self) -> Iterator[DataPart]:
    """Yields the data of all clients in parts, divided over the devices by client id."""
    sizes, num_clients = self._data.sizes, self._data.num_clients
    devices = self._mapping.num_devices
    grid = np.arange(-(-num_clients // devices) * devices).reshape(devices, -1)
    counts = np.append(sizes, np.zeros(grid.size - num_clients, sizes.dtype))[grid].sum(0)
    capacity = max(self._budget, int(counts.max()))
    ends, cuts = np.cumsum(counts), [0]
    while cuts[-1] < len(counts):
      before = ends[cuts[-1]] - counts[cuts[-1]]
      cuts.append(int(np.searchsorted(ends, before + capacity, "right")))
    width = int(np.diff(cuts).max())

    def read(begin: int, end: int) -> DataPart:
      block = grid[:, begin:end]
      real = block < num_clients
      index = np.full((devices, width), -1, np.int32)
      index[:, : end - begin][real] = np.arange(real.sum())
      return DataPart(self._read(block[real], capacity, index.size), self._place(index))

    blocks = itertools.pairwise(cuts)
    ahead = self._thread.submit(read, *next(blocks))
    for block in blocks:
      part, ahead = ahead.result(), self._thread.submit(read, *block)
      yield part
    yield ahead.result()

  def client_states(self, store: ClientStore, window: Window) -> PyTree:
    """Returns the states of a window's clients on the device, in the order of ``window.data``."""
    return self._place(store.gather(np.resize(window.clients, window.data.num_rows)))

  def store_states(self, store: ClientStore, window: Window, states: PyTree) -> None:
    """Writes the client states after the rounds of a window back to the store."""
    store.scatter(window.clients, states)

  def _prepare(self, first: int) -> None:
    """Starts to read the window that begins with round ``first``."""
    # The cohorts are drawn outside the thread, whose device work would wait for the current rounds.
    ids = self._draw(first)[: self._rounds - first]
    clients, indices = np.unique(ids, return_index=True)
    added = np.bincount(indices // self._cohort, self._data.sizes[clients], len(ids))
    ids = ids[: np.searchsorted(np.cumsum(added), self._capacity, "right")]
    clients, inverse = np.unique(ids, return_inverse=True)
    num_rows = min(self._data.num_clients, self._longest * self._cohort)

    def read() -> Window:
      data = self._read(clients, self._capacity, num_rows)
      slots = self._arranged(ids, inverse.reshape(ids.shape).astype(np.int32))
      slots = np.pad(slots, ((0, self._longest - len(ids)), (0, 0)))
      return Window(first, ids, clients, self._place(slots), data)

    self._next = self._thread.submit(read)

  def _arranged(self, ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns rows [n, s] in slots, for n cohorts ``ids`` [n, m] and their rows [n, m]."""
    if self._steps is None:
      return table
    orders = np.stack([self._mapping.arrange(self._steps[cohort]) for cohort in ids])
    padded = np.pad(table, ((0, 0), (0, 1)), constant_values=-1)  # which the position -1 finds
    return np.take_along_axis(padded, orders, 1)

  def _read(self, clients: np.ndarray, capacity: int, num_rows: int) -> FederatedData:
    """Returns the data of distinct clients on the device; rows repeat up to ``num_rows``."""
    repeated = np.resize(np.arange(len(clients)), num_rows)
    if self._resident is None:
      return self._place(rows(gather(self._data, clients, capacity), repeated))
    table = rows(self._data, clients[repeated])
    placed = self._place({name: getattr(table, name) for name in ROW_FIELDS})
    return self._resident._replace(**placed)
