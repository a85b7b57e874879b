"""Norms that merge their moments across clients: one big batch, under every mapping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.accelerators import require_host_devices
from helpers.norm_rows import SPECS
from helpers.norm_runs import (
  SHAPE,
  arrays,
  arrays_of,
  assert_batch_norm,
  assert_close,
  by_hand,
  run,
  variables,
)
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fedjax_norm.norm import Mode, Norm, NormSpec, create

NUM_CLIENTS, PER_CLIENT = 4, 3


def on_vmap(fn, *args):
  return jax.jit(jax.vmap(fn, axis_name="clients"))(*args)


def divided_in_two(args):
  return [jnp.reshape(jnp.asarray(a), (2, NUM_CLIENTS // 2, *a.shape[1:])) for a in args]


def on_pmap(fn, *args):
  out = jax.pmap(jax.vmap(fn, axis_name="clients"), "devices")(*divided_in_two(args))
  return jax.tree.map(lambda a: np.asarray(a).reshape(NUM_CLIENTS, *a.shape[2:]), out)


def on_shard_map(fn, *args):
  mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    jax.vmap(fn, axis_name="clients"),
    mesh=mesh,
    in_specs=P("devices"),
    out_specs=P("devices"),
    check_vma=False,
  )
  return jax.jit(mapped)(*args)


MAPPINGS = {
  "vmap": (on_vmap, ("clients",)),
  "pmap": (on_pmap, ("devices", "clients")),
  "shard_map": (on_shard_map, ("devices", "clients")),
}


ACROSS = {
  "sync_bn": SPECS["sync_bn"],
  "in groups": NormSpec("custom", "NSK", groups=2, across_clients=True),
  "centred": NormSpec("custom", "NSK", group_size=2, across_clients=True, scale=False),
}


@pytest.mark.parametrize("counts", [[3, 3, 3, 3], [3, 0, 1, 2]], ids=["equal", "unequal"])
@pytest.mark.parametrize(
  ("name", "mapping"),
  [
    *(("sync_bn", mapping) for mapping in MAPPINGS),
    ("in groups", "shard_map"),
    ("centred", "vmap"),
  ],
)
def test_a_norm_across_clients_equals_one_big_batch(name, mapping, counts):
  if mapping != "vmap":
    require_host_devices()
  run_mapped, axis_names = MAPPINGS[mapping]
  spec = ACROSS[name].bind(axis_names)
  x, dy, gamma, beta, mean, var = arrays_of(spec, (NUM_CLIENTS, PER_CLIENT, 2, 2, 4))
  x += np.arange(NUM_CLIENTS, dtype=np.float32)[:, None, None, None, None]  # the clients differ
  mask = (np.arange(PER_CLIENT) < np.array(counts)[:, None]).astype(np.float32)
  dy *= mask[..., None, None, None]

  def client(x, dy, mask):
    # The loss of one client; autodiff of the merge adds the gradients of the other clients.
    return run(spec, x, dy, variables(spec, gamma, beta, mean, var), mask=mask)

  y, (dx, grads), changed = run_mapped(client, x, dy, mask)
  real = mask > 0
  expected = by_hand(x[real], dy[real], gamma, beta, mean, var, scale=spec.scale)
  for stats in (jax.tree.map(lambda a, i=i: a[i], changed) for i in range(NUM_CLIENTS)):
    for key, value in stats["batch_stats"].items():
      assert_close(value, expected[2][key == "var"])
    assert stats["moments"]["batch"].count == 4 * sum(counts) * 4 / spec.num_groups(4)
  summed = jax.tree.map(lambda a: a.sum(0), grads)
  first = jax.tree.map(lambda a: a[0], changed)
  assert_batch_norm((np.asarray(y), (np.asarray(dx), summed), first), expected, real)
  np.testing.assert_array_equal(np.asarray(dx)[~real], 0)


def test_sync_bn_without_axis_names_is_batch_norm():
  x, dy, gamma, beta, mean, var = arrays(SHAPE)
  spec = create("sync_bn")
  result = run(spec, x, dy, variables(spec, gamma, beta, mean, var))
  assert_batch_norm(result, by_hand(x, dy, gamma, beta, mean, var))


def test_clients_can_have_a_single_element_each():
  one = jnp.full((1, 1, 1, 4), 3.0)
  spec = create("sync_bn").bind(("clients",))
  start = variables(spec, jnp.ones(4), jnp.zeros(4), jnp.zeros(4), jnp.ones(4))

  def client(x):
    return Norm(spec).apply(start, x, Mode(train=True), mutable=["moments"])[0]

  clients = jnp.stack([one, -one])
  signs = np.outer([1, -1], np.ones(4))
  assert_close(jax.vmap(client, axis_name="clients")(clients)[:, 0, 0, 0], signs, 1e-4)
  with pytest.raises(NameError, match="clients"):  # a scan binds no axis name
    jax.lax.map(client, clients)
