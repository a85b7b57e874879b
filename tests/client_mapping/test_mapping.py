"""Every mapping equals a Python loop over the clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_norm import client_mapping
from fedjax_norm.client_mapping import CLIENTS, DEVICES

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


def test_a_client_function_is_compiled_once_whatever_the_number_of_clients():
  mapping = client_mapping.create("vmap", num_clients=5, chunk=3)
  assert mapping.divide(5) == (2, 3)  # with one padding client
  program = jax.make_jaxpr(lambda s, i: mapping.map_reduce(work, s, i))(*inputs(5))
  assert str(program).count("tanh") == 1


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


@pytest.mark.host_devices
def test_shared_arrays_are_replicated():
  mapping = client_mapping.create("shard_map", num_clients=4)
  placed = jax.device_put(jnp.arange(3), mapping.sharding)
  assert placed.is_fully_replicated
  assert len(placed.devices()) == 2
  assert client_mapping.create("vmap", num_clients=4).sharding is None
