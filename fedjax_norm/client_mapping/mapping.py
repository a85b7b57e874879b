"""Runs a function for every client, in parallel or sequentially, and sums or stacks its results."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_norm.client_mapping import arrangement
from fedjax_norm.typing import Array, PyTree

DEVICES, CLIENTS = "devices", "clients"
"""The names of the mapped axes: devices, and the clients that one device runs in parallel."""

ClientFn = Callable[[Any, Any], tuple[PyTree, PyTree]]
"""(inputs of all clients, input of one client) -> (result to sum over clients, result to stack)."""


class ClientMapping(NamedTuple):
  """The way in which a per-client function runs for all clients.

  Attributes:
    backend: ``'vmap'`` or ``'scan'`` on one device; ``'pmap'`` or ``'shard_map'`` over devices.
    chunk: largest number of clients that a device runs in parallel by vmap; 0 for all, 1 for a
      scan. A device divides its clients into equal chunks.
    mesh: the devices, with the single axis ``DEVICES``; None on a single device.
    lockstep: whether clients exchange statistics in each step, so that no clients may be added as
      padding.
  """

  backend: str
  chunk: int
  mesh: Mesh | None = None
  lockstep: bool = False

  @property
  def num_devices(self) -> int:
    """The number of devices over which clients are divided."""
    return self.mesh.size if self.mesh else 1

  @property
  def axis_names(self) -> tuple[str, ...]:
    """The axis names for collectives of clients; none unless all clients run in parallel."""
    if self.chunk != 0:
      return ()
    return (DEVICES, CLIENTS) if self.mesh else (CLIENTS,)

  @property
  def devices(self) -> list[jax.Device]:
    """The devices over which clients are divided."""
    return list(self.mesh.devices.flat) if self.mesh else jax.devices()[:1]

  @property
  def sharding(self) -> NamedSharding | None:
    """The sharding of arrays that every client reads: replicated. None on a single device."""
    return NamedSharding(self.mesh, P()) if self.mesh else None

  @property
  def multi_process(self) -> bool:
    """Whether the devices belong to several processes, each with the data of its devices only."""
    return self.mesh is not None and self.mesh.is_multi_process

  @property
  def row_sharding(self) -> NamedSharding | None:
    """The sharding of arrays with one row per client: divided over devices if several processes."""
    return NamedSharding(self.mesh, self._spec(True)) if self.mesh else None

  def _spec(self, sharded: bool) -> P:
    return P(DEVICES) if sharded and self.multi_process else P()

  def take(self, states: PyTree, rows: Array) -> PyTree:
    """Returns the rows of ``states`` at the indices ``rows``.

    Args:
      states: arrays [U, ...] with one row per client; with several processes, divided over devices.
      rows: [n] int32; with several processes, each device's share of ``rows`` indexes the rows on
        that device, and -1 stands for a padding client.
    """

    def on_device(states: PyTree, rows: Array) -> PyTree:
      return jax.tree.map(lambda a: a[rows], states)

    return self._on_each_device(on_device, states, rows)

  def put(self, states: PyTree, rows: Array, new: PyTree) -> PyTree:
    """Returns ``states`` in which ``new`` replaces the rows that :meth:`take` would return."""

    def on_device(states: PyTree, rows: Array, new: PyTree) -> PyTree:
      def replaced(a: Array, b: Array) -> Array:
        return a.at[jnp.where(rows < 0, a.shape[0], rows)].set(b, mode="drop")

      return jax.tree.map(replaced, states, new)

    return self._on_each_device(on_device, states, rows, new)

  def _on_each_device(self, fn: Callable[..., PyTree], *arrays: PyTree) -> PyTree:
    if not self.multi_process:
      return fn(*arrays)
    return jax.shard_map(
      fn, mesh=self.mesh, in_specs=P(DEVICES), out_specs=P(DEVICES), check_vma=False
    )(*arrays)

  def one_by_one(self) -> "ClientMapping":
    """Returns a mapping that runs one client at a time on each device, to save memory."""
    return ClientMapping("shard_map" if self.mesh else "scan", 1, self.mesh)

  def divide(self, count: int) -> tuple[int, int]:
    """Returns (chunks, clients of a chunk) of a device that has ``count`` clients."""
    chunks = -(-count // (self.chunk or count))
    return chunks, -(-count // chunks)

  def arrange(self, steps: np.ndarray) -> np.ndarray:
    """Arranges the clients of a round so that little time is lost if their local steps differ.

    Clients with similar numbers of steps run in the same chunk, and all devices take about as many
    steps. The order stays as it is where it does not matter: in lock-step, and on a device that
    runs all its clients in parallel or one after another.

    Args:
      steps: [m] int, the local steps of each client of the round.

    Returns:
      [slots] positions in ``steps``, device after device; -1 is a padding client.
    """
    if self._keeps_order:
      return np.arange(len(steps))
    shape = self.divide(-(-len(steps) // self.num_devices))
    return arrangement.arrange(steps, self.num_devices, *shape)

  @property
  def _keeps_order(self) -> bool:
    return self.chunk == 0 or (self.chunk == 1 and self.num_devices == 1)

  def busy_share(self, steps: np.ndarray, cohort: int) -> float:
    """Returns the expected share of the devices' time in which clients take their own steps.

    ``steps`` [K] are the local steps of all clients, of which a round has ``cohort`` random ones.
    """
    size = self.divide(-(-cohort // self.num_devices))[1]
    shares = [
      arrangement.busy_share(drawn, self.arrange(drawn), self.num_devices, size)
      for drawn in arrangement.sample_cohorts(steps, cohort)
    ]
    return float(np.mean(shares))

  def describe(self, steps: np.ndarray | None = None, cohort: int = 0) -> str:
    """Returns one line for the start of a run, such as 'vmap on one cpu device'.

    With the ``steps`` of all clients and the clients of a round, it says how busy the devices are.
    """
    if steps is not None and not self.multi_process and (self.mesh or self.chunk != 1):
      share = self.busy_share(steps, cohort)
      order = "wait for the one with the most" if self._keeps_order else "are ordered by their"
      return f"{self.describe()}; clients of a round {order} steps; devices are {share:.0%} busy"
    inner = {0: "vmap", 1: "scan"}.get(self.chunk, f"vmap in chunks of {self.chunk}")
    platform = jax.default_backend()
    if self.mesh is None:
      return f"{inner} on one {platform} device"
    return f"{self.backend} over {self.num_devices} {platform} devices, {inner} in each"

  def map_reduce(
    self,
    fn: ClientFn,
    shared: PyTree,
    items: PyTree,
    sharded: PyTree = False,
    transform: Callable[[ClientFn], ClientFn] = lambda run: run,
  ) -> tuple[PyTree, PyTree]:
    """Runs a function for each client; sums its first result over clients and stacks its second.

    Args:
      fn: pure function (shared, item) -> (result to sum, result to stack).
      shared: inputs that every client reads.
      items: pytree of arrays [n, ...], one row per client.
      sharded: prefix of ``shared``'s structure, True for arrays that are divided over the devices
        if there are several processes.
      transform: changes the function (shared, items of a chunk) -> (sums, rows) of a device's
        clients that run in parallel; for example, a gradient of the sums then needs the memory of
        one chunk.

    Returns:
      (sums over clients, stacked results [n, ...]). Only the first results of one chunk of clients
      are in memory at any time.
    """
    count = jax.tree.leaves(items)[0].shape[0]
    if self.mesh is None:
      return self._on_one_device(fn, shared, items, transform)
    padding = -count % self.num_devices
    if padding and self.lockstep:
      raise ValueError(f"{count} clients in lock-step cannot be divided over {self.num_devices}.")
    fn, items = _padded(fn, items, padding)

    def part(shared: PyTree, items: PyTree) -> tuple[PyTree, PyTree]:
      sums, rows = self._on_one_device(fn, shared, items, transform)
      return jax.lax.psum(sums, DEVICES), rows

    if self.backend == "pmap":
      folded = jax.tree.map(lambda a: a.reshape(self.num_devices, -1, *a.shape[1:]), items)
      run = jax.pmap(part, DEVICES, in_axes=(None, 0), devices=self.devices)
      sums, rows = run(shared, folded)
      sums = jax.tree.map(lambda a: a[0], sums)
      rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
    else:
      # check_vma cannot type a psum over a vmapped name together with a mesh axis.
      run = jax.shard_map(
        part,
        mesh=self.mesh,
        in_specs=(jax.tree.map(self._spec, sharded), P(DEVICES)),
        out_specs=(P(), P(DEVICES)),
        check_vma=False,
      )
      sums, rows = run(shared, items)
    return sums, jax.tree.map(lambda a: a[:count], rows)

  def _on_one_device(
    self, fn: ClientFn, shared: PyTree, items: PyTree, transform: Callable[[ClientFn], ClientFn]
  ) -> tuple[PyTree, PyTree]:
    count = jax.tree.leaves(items)[0].shape[0]
    chunks, size = self.divide(count)
    fn, items = _padded(fn, items, chunks * size - count)

    def run_clients(shared: PyTree, items: PyTree) -> tuple[PyTree, PyTree]:
      if self.chunk == 1:
        return fn(shared, jax.tree.map(lambda a: a[0], items))
      axis = None if self.chunk else CLIENTS
      sums, rows = jax.vmap(fn, (None, 0), axis_name=axis)(shared, items)
      return jax.tree.map(lambda a: a.sum(0), sums), rows

    run_chunk = functools.partial(transform(run_clients), shared)
    if self.chunk == 0:
      return run_chunk(items)

    def body(total: PyTree, items: PyTree) -> tuple[PyTree, PyTree]:
      sums, rows = run_chunk(items)
      return optax.tree.add(total, sums), rows

    items = jax.tree.map(lambda a: a.reshape(chunks, size, *a.shape[1:]), items)
    shapes = jax.eval_shape(run_chunk, jax.tree.map(lambda a: a[0], items))[0]
    sums, rows = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, shapes), items)
    if self.chunk > 1:
      rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], rows)
    return sums, rows


def _padded(fn: ClientFn, items: PyTree, padding: int) -> tuple[ClientFn, PyTree]:
  """Adds copies of the last client, and makes ``fn`` ignore them in its sums."""
  if not padding:
    return fn, items
  count = jax.tree.leaves(items)[0].shape[0]
  real = jnp.arange(count + padding) < count
  items = jax.tree.map(lambda a: jnp.concatenate([a, a[-1:].repeat(padding, 0)]), items)

  def masked(shared: PyTree, item: tuple[Array, PyTree]) -> tuple[PyTree, PyTree]:
    is_real, item = item
    sums, rows = fn(shared, item)
    return optax.tree.where(is_real, sums, optax.tree.zeros_like(sums)), rows

  return masked, (real, items)
