"""Every mapping equals a Python loop over the clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_norm import client_mapping
from fedjax_norm.client_mapping import CLIENTS, DEVICES
from fedjax_norm.errors import UserError

ONE = jax.devices()[:1]
CHOICES = [
  ("scan", None),
  ("vmap", None),
  ("vmap", 1),
  ("vmap", 2),
  ("vmap", 3),
  ("vmap", 9),
  ("pmap", None),
  ("pmap", 0),
  ("shard_map", None),
  ("shard_map", 0),
  ("shard_map", 2),
]


def work(shared, item):
  """A nonlinear function of the item, with results of several dtypes and shapes."""
  weights, offset = shared
  number, state = item
  value = jnp.tanh(weights * number) + state["v"]
  sums = {"value": value, "count": jnp.int32(1), "square": (offset + number) ** 2}
  return sums, (number + 1, {"v": value + state["v"], "at": number > 3})


def inputs(count):
  rng = np.random.default_rng(count)
  shared = (rng.standard_normal((2, 3)).astype(np.float32), np.float32(0.3))
  state = {"v": rng.standard_normal((count, 2, 3)).astype(np.float32)}
  return shared, (np.arange(count, dtype=np.float32) - 1, state)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
@pytest.mark.parametrize(("backend", "chunk"), CHOICES)
def test_map_reduce_equals_a_loop(backend, chunk, count):
  mapping = client_mapping.create(backend, num_clients=count, chunk=chunk)
  shared, items = inputs(count)
  results = [work(shared, jax.tree.map(lambda a, k=k: a[k], items)) for k in range(count)]
  expected_sums = jax.tree.map(lambda *a: sum(a), *(r[0] for r in results))
  expected_rows = jax.tree.map(lambda *a: np.stack(a), *(r[1] for r in results))
  sums, rows = jax.jit(lambda s, i: mapping.map_reduce(work, s, i))(shared, items)
  for actual, expected in ((sums, expected_sums), (rows, expected_rows)):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
      assert (a.shape, a.dtype) == (b.shape, b.dtype)
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  assert sums["count"] == count


def test_padding_does_not_count():
  # Five clients on two devices: the sixth is a copy of the first, and must not be added.
  mapping = client_mapping.create("shard_map", num_clients=5)

  def fn(shared, item):
    return jnp.where(item == 0, jnp.inf, item), ()

  total, _ = mapping.map_reduce(fn, (), jnp.arange(1.0, 6.0))
  assert total == 15
  total, _ = mapping.map_reduce(lambda shared, item: (1 / item, ()), (), jnp.ones(5))
  assert total == 5


@pytest.mark.parametrize(
  ("backend", "count"), [("vmap", 3), ("shard_map", 4), ("shard_map", 3), ("pmap", 6), ("auto", 5)]
)
def test_clients_in_lockstep_share_collectives(backend, count):
  mapping = client_mapping.create(backend, num_clients=count, lockstep=True)
  assert count % mapping.num_devices == 0  # padding would take part in the collectives

  def fn(shared, item):
    return item, jax.lax.psum(item, mapping.axis_names) - item

  values = jnp.arange(1.0, count + 1)
  total, others = mapping.map_reduce(fn, (), values)
  assert total == values.sum()
  np.testing.assert_allclose(others, values.sum() - values)


def test_axis_names_are_those_that_a_client_can_use():
  def names(backend, chunk=None, **options):
    return client_mapping.create(backend, num_clients=4, chunk=chunk, **options).axis_names

  assert names("vmap") == (CLIENTS,)
  assert names("shard_map", 0) == names("pmap", lockstep=True) == (DEVICES, CLIENTS)
  for backend, chunk in (("scan", None), ("vmap", 2), ("shard_map", None), ("pmap", 1)):
    assert names(backend, chunk) == ()


def test_auto_chooses_by_devices_chunk_and_lockstep():
  def choice(num_clients=4, **options):
    mapping = client_mapping.create("auto", num_clients=num_clients, **options)
    return mapping.backend, mapping.chunk, mapping.num_devices

  assert choice(devices=ONE) == ("scan", 1, 1)
  assert choice(devices=ONE, lockstep=True) == ("vmap", 0, 1)
  assert choice(devices=ONE, chunk=2) == ("vmap", 2, 1)
  assert choice(devices=ONE, chunk=0) == ("vmap", 0, 1)
  assert choice() == ("shard_map", 1, 2)
  assert choice(chunk=3) == ("shard_map", 3, 2)
  assert choice(lockstep=True) == ("shard_map", 0, 2)
  assert choice(num_clients=1) == ("scan", 1, 1)
  assert choice(num_clients=3, lockstep=True) == ("vmap", 0, 1)


def test_describe():
  platform = jax.default_backend()
  assert (
    client_mapping.create("auto", num_clients=4, devices=ONE).describe()
    == f"scan on one {platform} device"
  )
  lockstep = client_mapping.create("pmap", num_clients=4, lockstep=True)
  assert lockstep.describe() == f"pmap over 2 {platform} devices, vmap in each"
  chunked = client_mapping.create("vmap", num_clients=4, chunk=2)
  assert chunked.describe() == f"vmap in chunks of 2 on one {platform} device"


def test_shared_arrays_are_replicated():
  mapping = client_mapping.create("shard_map", num_clients=4)
  placed = jax.device_put(jnp.arange(3), mapping.sharding)
  assert placed.is_fully_replicated
  assert len(placed.devices()) == 2
  assert client_mapping.create("vmap", num_clients=4).sharding is None


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"backend": "mpi"}, "unknown backend 'mpi'"),
    ({"backend": "vmap", "chunk": -1}, "chunk is -1"),
    ({"backend": "scan", "lockstep": True}, "--backend=scan rules out"),
    ({"backend": "vmap", "chunk": 2, "lockstep": True}, "--chunk rules out"),
    ({"backend": "auto", "chunk": 1, "lockstep": True}, "--chunk rules out"),
    ({"backend": "scan", "chunk": 2}, "one client at a time"),
    ({"backend": "scan", "chunk": 0}, "one client at a time"),
  ],
)
def test_contradicting_options_are_rejected(options, message):
  with pytest.raises(UserError, match=message):
    client_mapping.create(num_clients=4, **options)


def test_host_devices_are_fixed_once_jax_has_started():
  assert len(jax.devices("cpu")) == 2
  client_mapping.use_host_devices(2)  # the number that JAX has started with
  with pytest.raises(UserError, match="already started with 2 host devices; call use_host_devices"):
    client_mapping.use_host_devices(3)
  with pytest.raises(UserError, match="at least 1"):
    client_mapping.use_host_devices(0)
  assert len(jax.devices("cpu")) == 2


class Accelerator:
  """A device with 1,000 bytes of memory."""

  platform = "gpu"
  process_index = 0

  def memory_stats(self):
    return {"bytes_limit": 1000}


def test_an_accelerator_runs_as_many_clients_in_parallel_as_fit_its_memory():
  def chunk(num_clients, size, **options):
    def client_bytes():
      assert size, "the size is not needed"
      return size

    mapping = client_mapping.create(
      num_clients=num_clients, client_bytes=client_bytes, devices=[Accelerator()], **options
    )
    assert mapping.backend == "vmap"
    return mapping.chunk

  assert chunk(3, 100) == 0
  assert chunk(6, 100) == 3
  assert chunk(6, 800) == 1
  assert chunk(6, None, chunk=2) == 2
  assert chunk(6, None, lockstep=True) == 0
  assert client_mapping.create(num_clients=6, devices=[Accelerator()]).chunk == 0


def test_host_devices_share_the_machines_memory():
  one, two = client_mapping.device_memory(ONE), client_mapping.device_memory(jax.devices())
  assert two == one // 2
  assert one > 2**28
  assert client_mapping.device_memory([Accelerator()]) == 1000
