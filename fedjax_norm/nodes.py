"""How a pure per-node function is mapped over nodes: vmap, scan, pmap or shard_map."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_norm import host_memory
from fedjax_norm.errors import UserError
from fedjax_norm.typing import Array, PyTree

_MOST_HOST_DEVICES = 1024  # each of them starts threads

BACKENDS = ("auto", "vmap", "scan", "pmap", "shard_map")
DEVICES, NODES = "devices", "nodes"

NodeFn = Callable[[Any, Any], tuple[PyTree, PyTree]]
"""(shared, one node's item) -> (what is summed over nodes, what each node keeps)."""


class Nodes(NamedTuple):
  """A choice of mapping.

  Attributes:
    backend: ``'vmap'`` or ``'scan'`` on one device; ``'pmap'`` or ``'shard_map'`` over devices.
    chunk: how many nodes of a device run at once under vmap: 0 all, 1 one after another (a scan).
    mesh: the devices, with the one axis ``DEVICES``; None on a single device.
    lockstep: whether nodes hear each other, so that none may be added to fill up a device.
  """

  backend: str
  chunk: int
  mesh: Mesh | None = None
  lockstep: bool = False

  @property
  def num_devices(self) -> int:
    """How many devices the nodes are divided over."""
    return self.mesh.size if self.mesh else 1

  @property
  def axis_names(self) -> tuple[str, ...]:
    """The axis names that are bound inside a node; none unless all nodes run in lock-step."""
    if self.chunk != 0:
      return ()
    return (DEVICES, NODES) if self.mesh else (NODES,)

  @property
  def devices(self) -> list[jax.Device]:
    """The devices that the nodes are divided over."""
    return list(self.mesh.devices.flat) if self.mesh else jax.devices()[:1]

  @property
  def sharding(self) -> NamedSharding | None:
    """Where arrays belong that every node reads."""
    return NamedSharding(self.mesh, P()) if self.mesh else None

  @property
  def apart(self) -> bool:
    """Whether the devices are those of several processes, each with its own data alone."""
    return self.mesh is not None and self.mesh.is_multi_process

  @property
  def held_sharding(self) -> NamedSharding | None:
    """Where arrays belong of which, of several processes, each device has its own rows."""
    return NamedSharding(self.mesh, self._spec(True)) if self.mesh else None

  def _spec(self, held: bool) -> P:
    return P(DEVICES) if held and self.apart else P()

  def take(self, states: PyTree, rows: Array) -> PyTree:
    """Some rows of nodes' states [U, ...]; of held ones each device takes its own.

    Args:
      states: a row a node; of several processes, held.
      rows: [n] int32; of several processes, each device's own share counts its own rows, and -1 is
        nobody's.
    """

    def of_device(states, rows):
      return jax.tree.map(lambda a: a[rows], states)

    return self._by_device(of_device, states, rows)

  def put(self, states: PyTree, rows: Array, new: PyTree) -> PyTree:
    """The states with some rows replaced: the inverse of :meth:`take`."""

    def of_device(states, rows, new):
      def replaced(a, b):
        return a.at[jnp.where(rows < 0, a.shape[0], rows)].set(b, mode="drop")

      return jax.tree.map(replaced, states, new)

    return self._by_device(of_device, states, rows, new)

  def _by_device(self, fn: Callable[..., PyTree], *arrays: PyTree) -> PyTree:
    if not self.apart:
      return fn(*arrays)
    return jax.shard_map(
      fn, mesh=self.mesh, in_specs=P(DEVICES), out_specs=P(DEVICES), check_vma=False
    )(*arrays)

  def one_by_one(self) -> "Nodes":
    """The same devices, each with one node after another: memory of one node a device."""
    return Nodes("shard_map" if self.mesh else "scan", 1, self.mesh)

  def describe(self) -> str:
    """One line for the start of a run."""
    inner = {0: "vmap", 1: "scan"}.get(self.chunk, f"vmap in chunks of {self.chunk}")
    platform = jax.default_backend()
    if self.mesh is None:
      return f"{inner} on one {platform} device"
    return f"{self.backend} over {self.num_devices} {platform} devices, {inner} in each"

  def map_reduce(
    self, fn: NodeFn, shared: PyTree, items: PyTree, held: PyTree = False
  ) -> tuple[PyTree, PyTree]:
    """Runs a function on every node, sums one of its results and stacks the other.

    Args:
      fn: (shared, item) -> (sums, kept), pure.
      shared: read by every node.
      items: a pytree of arrays [n, ...], a node a row.
      held: a prefix of ``shared``'s structure, True where, of several processes, each device has a
        part of its own.

    Returns:
      (sums over nodes, kept [n, ...]). Memory for the summed results is that of one chunk.
    """
    count = jax.tree.leaves(items)[0].shape[0]
    if self.mesh is None:
      return self._on_one_device(fn, shared, items)
    lacking = -count % self.num_devices
    if lacking and self.lockstep:
      raise ValueError(f"{count} nodes in lock-step cannot be divided over {self.num_devices}.")
    present = jnp.arange(count + lacking) < count
    items = jax.tree.map(lambda a: jnp.concatenate([a, a[:1].repeat(lacking, 0)]), items)

    def part(shared, present, items):
      def masked(shared, item):
        here, item = item
        sums, kept = fn(shared, item)
        return optax.tree.where(here, sums, jax.tree.map(jnp.zeros_like, sums)), kept

      sums, kept = self._on_one_device(masked, shared, (present, items))
      return jax.lax.psum(sums, DEVICES), kept

    if self.backend == "pmap":
      fold = functools.partial(
        jax.tree.map, lambda a: a.reshape(self.num_devices, -1, *a.shape[1:])
      )
      run = jax.pmap(part, DEVICES, in_axes=(None, 0, 0), devices=self.devices)
      sums, kept = run(shared, fold(present), fold(items))
      sums = jax.tree.map(lambda a: a[0], sums)
      kept = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), kept)
    else:
      # check_vma cannot type a psum over a vmapped name beside a mesh axis.
      run = jax.shard_map(
        part,
        mesh=self.mesh,
        in_specs=(jax.tree.map(self._spec, held), P(DEVICES), P(DEVICES)),
        out_specs=(P(), P(DEVICES)),
        check_vma=False,
      )
      sums, kept = run(shared, present, items)
    return sums, jax.tree.map(lambda a: a[:count], kept)

  def _on_one_device(self, fn, shared, items):
    count = jax.tree.leaves(items)[0].shape[0]
    if self.chunk == 0:
      sums, kept = jax.vmap(fn, (None, 0), axis_name=NODES)(shared, items)
      return jax.tree.map(lambda a: a.sum(0), sums), kept
    whole = count // self.chunk * self.chunk

    def many(items):
      if self.chunk == 1:
        return fn(shared, jax.tree.map(lambda a: a[0], items))
      sums, kept = jax.vmap(fn, (None, 0))(shared, items)
      return jax.tree.map(lambda a: a.sum(0), sums), kept

    def body(total, items):
      sums, kept = many(items)
      return optax.tree.add(total, sums), kept

    chunks = jax.tree.map(lambda a: a[:whole].reshape(-1, self.chunk, *a.shape[1:]), items)
    shapes = jax.eval_shape(many, jax.tree.map(lambda a: a[: self.chunk], items))[0]
    zeros = jax.tree.map(jnp.zeros_like, shapes)
    sums, kept = jax.lax.scan(body, zeros, chunks)
    if self.chunk > 1:
      kept = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), kept)
    if whole < count:  # the nodes that do not fill a chunk
      rest, more = jax.vmap(fn, (None, 0))(shared, jax.tree.map(lambda a: a[whole:], items))
      sums = jax.tree.map(lambda a, b: a + b.sum(0), sums, rest)
      kept = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), kept, more)
    return sums, kept


_AUTO = {
  # (platform, several devices, lock-step): (backend, nodes of a device at once: 0 all, None as many
  # as fit). Measured on a CPU (benchmarks/README.md); for accelerators reasoned, not measured.
  ("cpu", False, False): ("scan", 1),
  ("cpu", False, True): ("vmap", 0),
  ("cpu", True, False): ("shard_map", 1),
  ("cpu", True, True): ("shard_map", 0),
  ("accelerator", False, False): ("vmap", None),
  ("accelerator", False, True): ("vmap", 0),
  ("accelerator", True, False): ("shard_map", None),
  ("accelerator", True, True): ("shard_map", 0),
}

# The share of an accelerator's memory for the nodes that run at once; the data may take half of it.
_NODES_SHARE = 0.3


def create(
  backend: str = "auto",
  *,
  num_nodes: int,
  chunk: int | None = None,
  lockstep: bool = False,
  node_bytes: Callable[[], int] | None = None,
  devices: list[jax.Device] | None = None,
) -> Nodes:
  """Chooses a mapping.

  ``auto`` divides the nodes over the devices when there are several (shard_map). Within a device, a
  CPU runs one node after another (scan), for nodes at once make it no faster and take more memory;
  an accelerator runs as many at once (vmap) as fit its memory, all of them for as many steps as the
  longest among them takes. Nodes in lock-step all run at once,
  and none may fill up a device, for the others would hear it: as many devices are used as divide
  them.

  Args:
    backend: one of ``BACKENDS``.
    num_nodes: how many nodes there are to map.
    chunk: nodes of a device at once; 0 all of them; None chooses.
    lockstep: whether a norm looks across nodes, so that all must run at once.
    node_bytes: () -> the bytes that a running node needs, asked for on an accelerator; None takes
      it that all nodes fit.
    devices: what to use; all local ones by default.

  Raises:
    UserError: an unknown backend, a chunk that cannot be, or a lock-step that the choice denies.
  """
  if backend not in BACKENDS:
    raise UserError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
  if chunk is not None and chunk < 0:
    raise UserError(f"chunk is {chunk}; it must be 0 (all nodes at once) or more.")
  if lockstep and (backend == "scan" or chunk):
    raise UserError(
      "a norm that looks across nodes needs all of them in lock-step, which "
      f"{'--backend=scan' if backend == 'scan' else '--chunk'} denies; use --backend=vmap, pmap or "
      "shard_map without --chunk."
    )
  if backend == "scan" and chunk not in (None, 1):
    raise UserError(f"--backend=scan runs one node at a time; drop --chunk={chunk} or use vmap.")
  devices = devices or jax.devices()
  if apart := jax.process_count() > 1:
    # Every process takes part with all of its devices, and nobody's nodes fill them up.
    if backend in ("vmap", "scan", "pmap"):
      raise UserError(
        f"--backend={backend} is for one process; use shard_map (or auto) with several."
      )
  else:
    devices = devices[: max(1, min(len(devices), num_nodes))]
    while lockstep and num_nodes % len(devices):
      devices = devices[:-1]
  platform = "cpu" if devices[0].platform == "cpu" else "accelerator"
  usual, at_once = _AUTO[platform, apart or len(devices) > 1, lockstep]
  if backend == "auto":
    backend = "vmap" if usual == "scan" and chunk is not None else usual
  if backend == "scan":
    chunk = 1
  elif chunk is None:
    # On one device vmap means what it says.
    chunk = 0 if backend == "vmap" and at_once == 1 else at_once
  if backend in ("vmap", "scan"):
    devices = devices[:1]
  if chunk is None:
    chunk = _fitting(-(-num_nodes // len(devices)), node_bytes, devices)
  mesh = None
  if backend in ("pmap", "shard_map"):
    mesh = jax.make_mesh((len(devices),), (DEVICES,), axis_types=(AxisType.Auto,), devices=devices)
  return Nodes(backend, chunk, mesh, lockstep)


def _fitting(
  num_nodes: int, node_bytes: Callable[[], int] | None, devices: list[jax.Device]
) -> int:
  """How many of a device's nodes may run at once; 0 is all of them."""
  if node_bytes is None:
    return 0
  most = int(_NODES_SHARE * device_memory(devices) // node_bytes())
  return 0 if most >= num_nodes else max(1, most)


def device_memory(devices: list[jax.Device]) -> int:
  """The bytes of a device's memory; host devices have a part each of the machine's."""
  mine = [device for device in devices if device.process_index == jax.process_index()]
  stats = mine[0].memory_stats() or {}
  return stats.get("bytes_limit", host_memory.of_machine() // len(mine))


def use_host_devices(count: int) -> None:
  """Makes JAX see this many single-threaded CPU devices; call it before anything uses JAX.

  Raises:
    UserError: fewer than one or too many, or JAX has started already with another number.
  """
  if not 1 <= count <= _MOST_HOST_DEVICES:
    raise UserError(
      f"host_devices is {count}; it must be at least 1 and at most {_MOST_HOST_DEVICES}."
    )
  try:
    jax.config.update("jax_num_cpu_devices", count)
  except RuntimeError:
    if len(jax.devices("cpu")) != count:
      raise UserError(
        f"JAX has already started with {len(jax.devices('cpu'))} host devices; call "
        f"use_host_devices({count}) first, before any array is made."
      ) from None
