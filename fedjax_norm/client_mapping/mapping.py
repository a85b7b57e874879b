"""A per-client function mapped over clients, whose results are summed or stacked."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_norm.typing import Array, PyTree

DEVICES, CLIENTS = "devices", "clients"
"""The names of the mapped axes."""

ClientFn = Callable[[Any, Any], tuple[PyTree, PyTree]]
"""(shared, item of one client) -> (result to sum over clients, result to stack)."""


class ClientMapping(NamedTuple):
  """How clients are mapped.

  Attributes:
    backend: ``'vmap'`` or ``'scan'`` on one device; ``'pmap'`` or ``'shard_map'`` over devices.
    chunk: number of clients that a device runs in parallel under vmap: 0 all, 1 sequentially (a
      scan).
    mesh: the devices, with the single axis ``DEVICES``; None on a single device.
    lockstep: whether clients exchange statistics in each step, so that padding is not allowed.
  """

  backend: str
  chunk: int
  mesh: Mesh | None = None
  lockstep: bool = False

  @property
  def num_devices(self) -> int:
    """The number of devices."""
    return self.mesh.size if self.mesh else 1

  @property
  def axis_names(self) -> tuple[str, ...]:
    """The axis names that the function of a client can use; none unless all run in parallel."""
    if self.chunk != 0:
      return ()
    return (DEVICES, CLIENTS) if self.mesh else (CLIENTS,)

  @property
  def devices(self) -> list[jax.Device]:
    """The devices."""
    return list(self.mesh.devices.flat) if self.mesh else jax.devices()[:1]

  @property
  def sharding(self) -> NamedSharding | None:
    """The sharding of arrays that every client reads: replicated."""
    return NamedSharding(self.mesh, P()) if self.mesh else None

  @property
  def multi_process(self) -> bool:
    """Whether the devices belong to several processes, each of which has only local data."""
    return self.mesh is not None and self.mesh.is_multi_process

  @property
  def row_sharding(self) -> NamedSharding | None:
    """The sharding of arrays with rows of clients: with several processes, divided over devices."""
    return NamedSharding(self.mesh, self._spec(True)) if self.mesh else None

  def _spec(self, sharded: bool) -> P:
    return P(DEVICES) if sharded and self.multi_process else P()

  def take(self, states: PyTree, rows: Array) -> PyTree:
    """Returns some rows of clients' states [U, ...].

    Args:
      states: one row per client; with several processes, divided over the devices.
      rows: [n] int32; with several processes, each device's share of them indexes the rows on that
        device, and -1 selects padding.
    """

    def on_device(states: PyTree, rows: Array) -> PyTree:
      return jax.tree.map(lambda a: a[rows], states)

    return self._on_each_device(on_device, states, rows)

  def put(self, states: PyTree, rows: Array, new: PyTree) -> PyTree:
    """Returns the states with some rows replaced: the inverse of :meth:`take`."""

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

  def describe(self) -> str:
    """Returns one line for the start of a run."""
    inner = {0: "vmap", 1: "scan"}.get(self.chunk, f"vmap in chunks of {self.chunk}")
    platform = jax.default_backend()
    if self.mesh is None:
      return f"{inner} on one {platform} device"
    return f"{self.backend} over {self.num_devices} {platform} devices, {inner} in each"

  def map_reduce(
    self, fn: ClientFn, shared: PyTree, items: PyTree, sharded: PyTree = False
  ) -> tuple[PyTree, PyTree]:
    """Runs a function on every client, sums its first result and stacks its second one.

    Args:
      fn: pure function (shared, item) -> (result to sum, result to stack).
      shared: inputs that every client reads.
      items: pytree of arrays [n, ...], one row per client.
      sharded: prefix of ``shared``'s structure, True for parts that are divided over the devices if
        there are several processes.

    Returns:
      (sums over clients, stacked results [n, ...]). The sums need the memory of one chunk.
    """
    count = jax.tree.leaves(items)[0].shape[0]
    if self.mesh is None:
      return self._on_one_device(fn, shared, items)
    padding = -count % self.num_devices
    if padding and self.lockstep:
      raise ValueError(f"{count} clients in lock-step cannot be divided over {self.num_devices}.")
    real = jnp.arange(count + padding) < count
    items = jax.tree.map(lambda a: jnp.concatenate([a, a[:1].repeat(padding, 0)]), items)

    def part(shared: PyTree, real: Array, items: PyTree) -> tuple[PyTree, PyTree]:
      def masked(shared: PyTree, item: tuple[Array, PyTree]) -> tuple[PyTree, PyTree]:
        is_real, item = item
        sums, rows = fn(shared, item)
        return optax.tree.where(is_real, sums, jax.tree.map(jnp.zeros_like, sums)), rows

      sums, rows = self._on_one_device(masked, shared, (real, items))
      return jax.lax.psum(sums, DEVICES), rows

    if self.backend == "pmap":
      fold = functools.partial(
        jax.tree.map, lambda a: a.reshape(self.num_devices, -1, *a.shape[1:])
      )
      run = jax.pmap(part, DEVICES, in_axes=(None, 0, 0), devices=self.devices)
      sums, rows = run(shared, fold(real), fold(items))
      sums = jax.tree.map(lambda a: a[0], sums)
      rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
    else:
      # check_vma cannot type a psum over a vmapped name together with a mesh axis.
      run = jax.shard_map(
        part,
        mesh=self.mesh,
        in_specs=(jax.tree.map(self._spec, sharded), P(DEVICES), P(DEVICES)),
        out_specs=(P(), P(DEVICES)),
        check_vma=False,
      )
      sums, rows = run(shared, real, items)
    return sums, jax.tree.map(lambda a: a[:count], rows)

  def _on_one_device(self, fn: ClientFn, shared: PyTree, items: PyTree) -> tuple[PyTree, PyTree]:
    count = jax.tree.leaves(items)[0].shape[0]
    if self.chunk == 0:
      sums, rows = jax.vmap(fn, (None, 0), axis_name=CLIENTS)(shared, items)
      return jax.tree.map(lambda a: a.sum(0), sums), rows
    whole = count // self.chunk * self.chunk

    def run_chunk(items: PyTree) -> tuple[PyTree, PyTree]:
      if self.chunk == 1:
        return fn(shared, jax.tree.map(lambda a: a[0], items))
      sums, rows = jax.vmap(fn, (None, 0))(shared, items)
      return jax.tree.map(lambda a: a.sum(0), sums), rows

    def body(total: PyTree, items: PyTree) -> tuple[PyTree, PyTree]:
      sums, rows = run_chunk(items)
      return optax.tree.add(total, sums), rows

    chunks = jax.tree.map(lambda a: a[:whole].reshape(-1, self.chunk, *a.shape[1:]), items)
    shapes = jax.eval_shape(run_chunk, jax.tree.map(lambda a: a[: self.chunk], items))[0]
    zeros = jax.tree.map(jnp.zeros_like, shapes)
    sums, rows = jax.lax.scan(body, zeros, chunks)
    if self.chunk > 1:
      rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
    if whole < count:  # the clients that do not fill a chunk
      rest, more = jax.vmap(fn, (None, 0))(shared, jax.tree.map(lambda a: a[whole:], items))
      sums = jax.tree.map(lambda a, b: a + b.sum(0), sums, rest)
      rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rows, more)
    return sums, rows
