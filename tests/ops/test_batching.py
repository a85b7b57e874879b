"""Convolutions on accelerators, whose form depends on what differs between the clients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from fedjax_norm.ops.conv import conv
from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.rules import choose

SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
CASES = {  # strides, padding, form, size of the kernel
  "grouped": ((1, 1), SAME, None, 3),
  "patches": ((2, 2), SAME, None, 3),
  "pointwise": ((2, 1), NONE, None, 1),
  "one_by_one": ((2, 1), SAME, "one_by_one", 3),
}
BOTH, IMAGES, KERNEL = (True, True), (True, False), (False, True)
# What differs between lanes, and between the clients of a lane: (images, kernel).
MAPS = [(BOTH, BOTH), (BOTH, IMAGES), (KERNEL, BOTH), (IMAGES, KERNEL), (KERNEL, IMAGES)]


def gradients(case, x, kernel):
  """Returns y, and the gradients of x and the kernel if the gradient of y is y."""
  strides, pads, form, _ = case
  y, pullback = jax.vjp(lambda *args: conv(*args, strides, pads, 1, form, "gpu"), x, kernel)
  return y, *pullback(y)


def gradients_by_numpy(case, x, kernel):
  """Returns the same of one client, computed for one kernel element after another."""
  (sh, sw), pads, _, size = case
  padded = np.pad(x, ((0, 0), *pads, (0, 0)))
  rows, columns = (padded.shape[1] - size) // sh * sh + 1, (padded.shape[2] - size) // sw * sw + 1
  windows = {
    (r, c): (slice(None), slice(r, r + rows, sh), slice(c, c + columns, sw))
    for r, c in np.ndindex(size, size)
  }
  y = sum(padded[window] @ kernel[tap] for tap, window in windows.items())
  dx, dk = np.zeros_like(padded), np.zeros_like(kernel)
  for tap, window in windows.items():
    dx[window] += y @ kernel[tap].T
    dk[tap] = np.einsum("nhwi,nhwo->io", padded[window], y)
  (top, _), (left, _) = pads
  return y, dx[:, top : top + x.shape[1], left : left + x.shape[2]], dk


def arguments(case, lanes=2, clients=3):
  """Returns x and the kernel of every lane and client."""
  rng, size = np.random.default_rng(0), case[3]
  x = rng.standard_normal((lanes, clients, 2, 5, 6, 8), np.float32)
  return x, rng.standard_normal((lanes, clients, size, size, 8, 4), np.float32)


@functools.partial(jax.jit, static_argnums=0)
def mapped(case, x, kernel):
  """Returns, for each of MAPS, the gradients of every lane and client."""

  def over(function, differ):
    return jax.vmap(function, [0 if one else None for one in differ])

  def shared(array, lanes_differ, clients_differ):
    array = array if lanes_differ else array[0]
    return array if clients_differ else array.take(0, int(lanes_differ))

  return [
    over(over(functools.partial(gradients, case), clients), lanes)(
      *(shared(*item) for item in zip((x, kernel), lanes, clients, strict=True))
    )
    for lanes, clients in MAPS
  ]


@pytest.mark.parametrize("name", CASES)
def test_every_lane_and_client_has_its_own_gradients(name):
  case = CASES[name]
  arrays = arguments(case)
  for (lanes, clients), results in zip(MAPS, mapped(case, *arrays), strict=True):
    for lane, client in np.ndindex(2, 3):
      own = (
        array[lane if by_lane else 0, client if by_client else 0]
        for array, by_lane, by_client in zip(arrays, lanes, clients, strict=True)
      )
      for actual, expected in zip(results, gradients_by_numpy(case, *own), strict=True):
        np.testing.assert_allclose(actual[lane, client], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.host_devices
def test_clients_in_loops_and_on_several_devices():
  case = CASES["patches"]
  x, kernel = arguments(case, 2, 2)
  clients = jax.vmap(functools.partial(gradients, case))
  mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

  def on_device(x, kernel):
    return jax.tree.map(lambda a: a[None], clients(x[0], kernel[0]))

  runs = {
    "scan": jax.jit(lambda *args: jax.lax.scan(lambda _, a: (None, clients(*a)), None, args)[1]),
    "shard_map": jax.jit(
      jax.shard_map(on_device, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=False)
    ),
    "pmap": jax.pmap(clients),
  }
  for run in runs.values():
    results = run(x, kernel)
    for index in np.ndindex(2, 2):
      expected = gradients_by_numpy(case, x[index], kernel[index])
      for actual, one in zip(results, expected, strict=True):
        np.testing.assert_allclose(actual[index], one, rtol=1e-4, atol=1e-3)


def operations(differ, case):
  """Returns the convolutions and matrix products of two clients' gradients, as text."""
  x, kernel = (
    array[0] if one else array[0, 0]
    for array, one in zip(arguments(case, 1, 2), differ, strict=True)
  )
  clients = jax.vmap(functools.partial(gradients, case), [0 if one else None for one in differ])
  found = []

  def search(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name in ("conv_general_dilated", "dot_general"):
        found.append(equation)
      for part in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "jaxpr")):
        if hasattr(part, "jaxpr"):
          search(part.jaxpr)

  search(jax.make_jaxpr(clients)(x, kernel).jaxpr)
  return found


def test_clients_that_share_a_kernel_make_one_batch():
  for name in CASES:
    forward, input_gradient, *_ = operations(IMAGES, (*CASES[name][:2], None, CASES[name][3]))
    for equation in (forward, input_gradient):
      assert equation.primitive.name == "conv_general_dilated"
      assert equation.params["feature_group_count"] == equation.params["batch_group_count"] == 1
      assert equation.outvars[0].aval.shape[0] == 2 * 2  # clients and their images


def test_clients_with_a_kernel_each_take_the_form_of_the_table():
  def names(case):
    return [equation.primitive.name for equation in operations(BOTH, CASES[case])]

  assert names("pointwise") == names("patches") == ["dot_general"] * 3
  assert names("grouped") == names("one_by_one") == ["conv_general_dilated"] * 3
  groups = {
    equation.params["feature_group_count"] for equation in operations(BOTH, CASES["grouped"])
  }
  assert 2 in groups
  assert all(
    equation.params["feature_group_count"] == 1
    for equation in operations(BOTH, CASES["one_by_one"])
  )


@pytest.mark.parametrize(
  ("form", "image", "strides", "channels", "dtype"),
  [  # the best column of the figures in rules.py
    ("xla", 32, 1, (64, 64), "bfloat16"),
    ("xla", 16, 1, (128, 128), "bfloat16"),
    ("patches", 4, 1, (512, 512), "bfloat16"),
    ("patches", 32, 2, (64, 128), "bfloat16"),
    ("one_by_one", 16, 1, (128, 128), "float32"),
    # further rules
    ("patches", 8, 1, (256, 256), "float32"),
    ("patches", 32, 1, (3, 64), "bfloat16"),
    ("xla", 8, 1, (32, 32), "float32"),  # too small to run one by one
    ("xla", 224, 2, (64, 256), "bfloat16"),  # too many bytes of patches
  ],
)
def test_the_form_of_many_clients(form, image, strides, channels, dtype):
  geometry = Geometry((image, image), (3, 3), (strides, strides), SAME)
  for part in ("forward", "input_gradient", "kernel_gradient"):
    assert choose(part, "gpu", dtype, geometry, 64, *channels, per_client=True) == form
    assert choose(part, "gpu", dtype, geometry, 64, *channels, per_client=False) == "xla"


def test_bfloat16_patches_are_summed_in_float32():
  case = CASES["patches"]
  x, kernel = arguments(case)
  exact = gradients_by_numpy(case, x[0, 0], kernel[0, 0])
  clients = jax.vmap(functools.partial(gradients, case))
  half = jax.jit(clients)(*(jnp.asarray(a[0], jnp.bfloat16) for a in (x, kernel)))
  for actual, expected in zip(half, exact, strict=True):
    assert actual.dtype == jnp.bfloat16
    error = np.abs(np.asarray(actual[0], np.float32) - expected)
    assert error.max() < 0.02 * np.abs(expected).max()
