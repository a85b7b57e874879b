"""Every norm against its oracle: flax, and torch and NumPy across the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.norm_rows import BATCH, EPSILON, ROWS, SPECS, WITHIN
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fedjax_norm.errors import UserError
from fedjax_norm.norm import NAMES, Mode, Norm, NormSpec, Renorm, create

SHAPE = (6, 2, 3, 4)  # where one is enough
SHAPES = [(5, 4), SHAPE, (2, 2, 3, 2, 4)]
REAL = np.array([0, 1, 1, 0, 1, 0], bool)  # the examples that are no padding


def arrays(shape, seed=0):
  """(x, dy, gamma, beta, running mean, running var) of a group a channel, none of them special."""
  rng = np.random.default_rng(seed)
  x = (1.5 + 2 * rng.standard_normal(shape)).astype(np.float32)
  dy = rng.standard_normal(shape).astype(np.float32)
  channels = rng.standard_normal((3, shape[-1])).astype(np.float32)
  return x, dy, 1 + channels[0] / 2, channels[1], channels[2], np.exp(2 * channels[0])


def arrays_of(spec: NormSpec, shape=SHAPE):
  """The same with running statistics of the spec's groups."""
  *others, mean, var = arrays(shape)
  groups = spec.num_groups(shape[-1])
  return *others, mean[:groups], var[:groups]


def by_channel(values, channels=SHAPE[-1]):
  """[G] -> [C]."""
  return np.repeat(values, channels // len(values))


def variables(spec: NormSpec, gamma, beta, mean=None, var=None) -> dict:
  params = {"scale": gamma, "bias": beta} if spec.scale else {"bias": beta}
  if mean is None:
    return {"params": params}
  return {
    "params": params,
    "batch_stats": {"mean": mean, "var": var} if spec.scale else {"mean": mean},
  }


@functools.partial(jax.jit, static_argnames=("spec", "train", "mutable"))
def _run(spec, train, mutable, x, dy, start, mask, step):
  def loss(x, params):
    mode = Mode(train=train, mask=mask, step=step)
    y, changed = Norm(spec).apply({**start, "params": params}, x, mode, mutable=list(mutable))
    return (y * dy).sum(), (y, changed)

  return jax.grad(loss, (0, 1), has_aux=True)(x, start["params"])


def run(
  spec, x, dy, start, *, train=True, mutable=("batch_stats", "moments"), mask=None, step=None
):
  """(y, gradients of sum(y dy) as (x, params), what changed)."""
  grads, (y, changed) = _run(spec, train, mutable, x, dy, start, mask, step)
  return y, grads, changed


def by_hand(x, dy, gamma, beta, mean, var, *, scale=True, bounds=(1.0, 0.0), decay=0.9):
  """Batch (re)normalization in as many groups as there are running means, in float64.

  Returns:
    (y, (dx, dgamma, dbeta), (running mean, running var), (r, d) before they are clipped).
  """
  x, dy, gamma, mean, var = (np.asarray(a, np.float64) for a in (x, dy, gamma, mean, var))
  channels = x.shape[-1]

  def grouped(a):
    return a.reshape(-1, len(mean), channels // len(mean)).swapaxes(1, 2).reshape(-1, len(mean))

  def spread(values):
    return by_channel(values, channels)

  axes = tuple(range(x.ndim - 1))
  batch_mean, unbiased = grouped(x).mean(0), grouped(x).var(0, ddof=1)
  after = (decay * mean + (1 - decay) * batch_mean, decay * var + (1 - decay) * unbiased)
  centred = x - spread(batch_mean)
  if not scale:
    dx = dy - spread(grouped(dy).mean(0))
    return centred + beta, (dx, None, dy.sum(axes)), after, None
  sigma, sigma_running = np.sqrt(grouped(x).var(0) + EPSILON), np.sqrt(var + EPSILON)
  free = sigma / sigma_running, (batch_mean - mean) / sigma_running
  r = spread(np.clip(free[0], 1 / bounds[0], bounds[0]))
  d = spread(np.clip(free[1], -bounds[1], bounds[1]))
  xhat = centred / spread(sigma)
  # r and d are constants to the gradient
  g = dy * gamma * r
  means = spread(grouped(g).mean(0)), spread(grouped(g * xhat).mean(0))
  dx = (g - means[0] - xhat * means[1]) / spread(sigma)
  corrected = xhat * r + d
  return gamma * corrected + beta, (dx, (dy * corrected).sum(axes), dy.sum(axes)), after, free


def assert_close(actual, expected, tolerance=2e-5):
  expected = np.asarray(expected)
  scale = max(1.0, np.abs(expected).max(initial=0.0))
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)


def assert_batch_norm(result, expected, real=slice(None)):
  """Compares :func:`run` on the examples ``real`` with :func:`by_hand`."""
  y, (dx, params), changed = result
  y_expected, (dx_expected, dgamma, dbeta), (mean, var), _ = expected
  assert_close(y[real], y_expected)
  assert_close(dx[real], dx_expected)
  assert_close(params["bias"], dbeta)
  assert_close(changed["batch_stats"]["mean"], mean)
  if dgamma is None:
    assert set(params) == {"bias"}
    assert set(changed["batch_stats"]) == {"mean"}
  else:
    assert_close(params["scale"], dgamma)
    assert_close(changed["batch_stats"]["var"], var)


# ------------------------------------------------------------------ every norm


@functools.partial(jax.jit, static_argnums=0)
def flaxs(oracle, params, x, dy):
  y, pullback = jax.vjp(oracle.apply, {"params": params}, x)
  return y, *pullback(dy)


@pytest.mark.parametrize(
  ("name", "shape", "train"),
  [
    *((name, SHAPE, True) for name, row in ROWS.items() if row.oracle),
    *((name, SHAPE, False) for name in WITHIN),
    *(
      (name, shape, True) for name in ("bgn", "gn", "ln", "cn") for shape in (SHAPES[0], SHAPES[2])
    ),
    ("in", SHAPES[2], True),
  ],
)
def test_norms_are_flaxs(name, shape, train):
  """In flax a norm across the batch is the norm within one example that holds the batch."""
  spec, oracle, across = SPECS[name], ROWS[name].oracle, name in BATCH
  x, dy, gamma, beta, *statistics = arrays_of(spec, shape)
  start = variables(spec, gamma, beta, *statistics if across else ())
  y, (dx, grads), changed = run(spec, x, dy, start, train=train)
  assert bool(changed) == across
  one = (1, -1, shape[-1]) if across else shape
  expected = flaxs(oracle, start["params"], x.reshape(one), dy.reshape(one))
  assert_close(y, expected[0].reshape(shape))
  assert_close(dx, expected[2].reshape(shape))
  for key, grad in expected[1]["params"].items():
    assert_close(grads[key], grad)


def test_every_norm_has_a_row():
  """A norm that is missing here would be tested nowhere."""
  assert {name.partition("-")[0] for name in ROWS} == set(NAMES)
  assert all(row.oracle or name in BATCH for name, row in ROWS.items() if row.reduce)


# ------------------------------------------------------------------ within an example


@pytest.mark.parametrize("name", ["gn", "cn"])
def test_norms_within_an_example_see_no_other_and_no_mask(name):
  spec = SPECS[name]
  x, dy, gamma, beta, *_ = arrays(SHAPE)
  start = variables(spec, gamma, beta)
  one = run(spec, x, dy, start, mask=jnp.asarray(REAL, jnp.float32))
  others = np.where(np.arange(len(x)) == 1, 0, 9).astype(np.float32)[:, None, None, None]
  two = run(spec, x + x * others, dy + others, start, mask=jnp.asarray(~REAL, jnp.float32))
  np.testing.assert_array_equal(one[0][1], two[0][1])
  np.testing.assert_array_equal(one[1][0][1], two[1][0][1])
  assert np.abs(one[1][0][1]).max() > 0


# ------------------------------------------------------------------ across the batch


def torch_batch_norm(ndim, channels, gamma, beta):
  kind = {2: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}[ndim]
  layer = kind(channels, eps=EPSILON, momentum=0.1)
  layer.weight.data, layer.bias.data = torch.tensor(gamma), torch.tensor(beta)
  return layer


def torch_step(layer, x, dy):
  """(y, dx, dgamma, dbeta) with channels last."""
  x = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
  y = layer(x)
  layer.zero_grad()
  y.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
  y, dx = (np.moveaxis(a.detach().numpy(), 1, -1) for a in (y, x.grad))
  return y, dx, layer.weight.grad.numpy(), layer.bias.grad.numpy()


@pytest.mark.parametrize(
  ("name", "shape"), [*(("bn", shape) for shape in SHAPES), ("sync_bn", SHAPE), ("fixbn", SHAPE)]
)
def test_batch_norm_is_torchs_in_training_and_evaluation(name, shape):
  spec = create(name)
  _, _, gamma, beta, *_ = arrays(shape)
  layer = torch_batch_norm(len(shape), shape[-1], gamma, beta)
  stats = Norm(spec).init(jax.random.key(0), jnp.ones(shape), Mode())["batch_stats"]
  for step in range(4):
    x, dy, *_ = arrays(shape, seed=step)
    train = step < 3
    layer.train(train)
    start = {**variables(spec, gamma, beta), "batch_stats": stats}
    y, (dx, grads), changed = run(spec, x, dy, start, train=train)
    for ours, theirs in zip(
      (y, dx, grads["scale"], grads["bias"]), torch_step(layer, x, dy), strict=True
    ):
      assert_close(ours, theirs)
    stats = changed["batch_stats"]  # evaluation changes nothing; torch says so below
    assert_close(stats["mean"], layer.running_mean.numpy())
    assert_close(stats["var"], layer.running_var.numpy())


def test_decay_is_what_is_kept_of_the_old_value():
  x, dy, gamma, beta, mean, var = arrays(SHAPE)
  spec = create("bn", decay=0.25)
  result = run(spec, x, dy, variables(spec, gamma, beta, mean, var))
  assert_batch_norm(result, by_hand(x, dy, gamma, beta, mean, var, decay=0.25))


def test_initial_variables_are_standard_and_initialization_moves_no_statistics():
  x = jnp.asarray(arrays(SHAPE)[0])
  start = Norm(create("bn")).init(jax.random.key(0), x, Mode(train=True))
  np.testing.assert_array_equal(start["params"]["scale"], np.ones(4))
  np.testing.assert_array_equal(start["params"]["bias"], np.zeros(4))
  np.testing.assert_array_equal(start["batch_stats"]["mean"], np.zeros(4))
  np.testing.assert_array_equal(start["batch_stats"]["var"], np.ones(4))
  assert set(start) == {"params", "batch_stats"}


def test_mean_only_batch_norm_centres():
  spec = SPECS["wn-centred"]
  x, dy, gamma, beta, mean, var = arrays(SHAPE)
  start = variables(spec, gamma, beta, mean, var)
  assert_batch_norm(run(spec, x, dy, start), by_hand(x, dy, gamma, beta, mean, var, scale=False))
  y, (dx, _), changed = run(spec, x, dy, start, train=False)
  assert_close(y, x - mean + beta)
  assert_close(dx, dy)
  assert_close(changed["batch_stats"]["mean"], mean)


@pytest.mark.parametrize("name", BATCH)
def test_a_masked_batch_is_the_batch_without_its_padding(name):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays_of(spec)
  real = REAL
  x[~real] *= 1e3
  dy[~real] = 0  # a padded example has no loss
  step = 15
  result = run(
    spec,
    x,
    dy,
    variables(spec, gamma, beta, mean, var),
    mask=jnp.asarray(real, jnp.float32),
    step=jnp.int32(step),
  )
  bounds = bounds_at(step) if name == "brn" else (1.0, 0.0)
  expected = by_hand(x[real], dy[real], gamma, beta, mean, var, scale=spec.scale, bounds=bounds)
  assert_batch_norm(result, expected, real)
  np.testing.assert_array_equal(np.asarray(result[1][0])[~real], 0)


@pytest.mark.parametrize("name", ["bn", "brn", "bgn", "wn-centred"])
def test_a_batch_of_padding_alone_leaves_the_running_statistics(name):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays_of(spec)
  start = variables(spec, gamma, beta, mean, var)
  y, (dx, grads), changed = run(spec, x, 0 * dy, start, mask=jnp.zeros(len(x)), step=jnp.int32(100))
  for key, value in start["batch_stats"].items():
    np.testing.assert_array_equal(changed["batch_stats"][key], value)
  assert np.isfinite(y).all()
  for grad in jax.tree.leaves((dx, grads)):  # 0 times infinity is not 0
    np.testing.assert_array_equal(grad, np.zeros_like(grad))


@pytest.mark.parametrize("name", ["bn", "brn", "wn-centred"])
def test_a_single_value_moves_the_mean_but_not_the_variance(name):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays((3, 4))
  mask = jnp.array([0.0, 1.0, 0.0])
  dy[::2] = 0
  _, (dx, _), changed = run(
    spec, x, dy, variables(spec, gamma, beta, mean, var), mask=mask, step=jnp.int32(0)
  )
  assert_close(changed["batch_stats"]["mean"], 0.9 * mean + 0.1 * x[1])
  if spec.scale:
    np.testing.assert_array_equal(changed["batch_stats"]["var"], var)
  assert_close(dx, np.zeros_like(x))  # a lone value is its own mean


@pytest.mark.parametrize("name", ["fixbn", "brn", "bgn", "wn-centred"])
def test_frozen_norms_are_evaluations_affine_map_that_training_leaves(name):
  spec = SPECS[name].frozen()
  x, dy, gamma, beta, mean, var = arrays_of(spec)
  start = variables(spec, gamma, beta, mean, var)
  if not spec.scale:
    gamma, var = np.ones_like(gamma), np.full_like(var, 1 - EPSILON)
  mean, sigma = by_channel(mean), by_channel(np.sqrt(np.float64(var) + EPSILON))
  y, (dx, grads), changed = run(spec, x, dy, start)
  assert_close(y, gamma * (x - mean) / sigma + beta)
  np.testing.assert_array_equal(run(SPECS[name], x, dy, start, train=False)[0], y)
  assert_close(dx, gamma / sigma * dy)
  assert_close(grads["bias"], dy.sum((0, 1, 2)))
  if spec.scale:
    assert_close(grads["scale"], (dy * (x - mean) / sigma).sum((0, 1, 2)))
  jax.tree.map(np.testing.assert_array_equal, changed, {"batch_stats": start["batch_stats"]})
  # one example of one pixel is no obstacle, for nothing is reduced
  one, pixel = x[:1, :1, :1], dy[:1, :1, :1]
  alone, *_ = run(spec, one, pixel, start)
  assert_close(alone, gamma * (one - mean) / sigma + beta)


# ------------------------------------------------------------------ batch renormalization


def bounds_at(step):
  """(r_max, d_max) of RAMP."""
  return np.interp(step, [10, 30], [1, 3]), np.interp(step, [10, 20], [0, 5])


def off_statistics():
  """Running statistics of five channels, so far off the batch's that r and d leave all bounds."""
  x, dy, gamma, beta, *_ = arrays((6, 2, 2, 5))
  mean = np.array([1.5, -20.0, 1.0, 30.0, 1.4], np.float32)
  var = np.array([4.0, 0.01, 400.0, 4.0, 5.0], np.float32)
  return x, dy, gamma, beta, mean, var


@pytest.mark.parametrize("step", [0, 10, 13, 20, 25, 30, 1000])
def test_batch_renormalization_is_ioffes(step):
  x, dy, gamma, beta, mean, var = off_statistics()
  spec = SPECS["brn"]
  bounds = bounds_at(step)
  expected = by_hand(x, dy, gamma, beta, mean, var, bounds=bounds)
  r, d = expected[-1]
  assert (r > bounds[0]).any()  # every bound is met
  assert (r < 1 / bounds[0]).any()
  assert (d > bounds[1]).any()
  assert (d < -bounds[1]).any()
  if bounds[1]:
    assert ((r < bounds[0]) & (r > 1 / bounds[0]) & (abs(d) < bounds[1])).any()
  start = variables(spec, gamma, beta, mean, var)
  assert_batch_norm(run(spec, x, dy, start, step=jnp.int32(step)), expected)


def test_batch_renormalization_within_its_bounds_is_evaluations_norm():
  x, dy, gamma, beta, mean, var = off_statistics()
  spec = create("brn", renorm=Renorm(1e4, 1e4, 0, 1, 1))
  start = variables(spec, gamma, beta, mean, var)
  trained = run(spec, x, dy, start, step=jnp.int32(1))
  evaluated = run(spec, x, dy, start, train=False)
  assert_close(trained[0], evaluated[0], 1e-4)
  assert np.abs(trained[1][0] - evaluated[1][0]).max() > 0.1  # but for the gradient


def test_batch_renormalization_without_slack_is_batch_norm():
  x, dy, gamma, beta, mean, var = off_statistics()
  spec = create("brn", renorm=Renorm(1.0, 0.0, 0, 1, 1))
  start = variables(spec, gamma, beta, mean, var)
  ours = run(spec, x, dy, start, step=jnp.int32(5))
  bn = run(create("bn"), x, dy, start)
  assert jax.tree.structure(ours) == jax.tree.structure(bn)
  jax.tree.map(assert_close, ours, bn)


def test_batch_renormalization_needs_its_step():
  x, dy, gamma, beta, mean, var = off_statistics()
  spec = SPECS["brn"]
  with pytest.raises(ValueError, match="needs the step"):
    run(spec, x, dy, variables(spec, gamma, beta, mean, var))


# ------------------------------------------------------------------ collections


def test_no_norm_is_the_identity_without_parameters():
  for name in ("none", "fixup", "wn"):
    x = jnp.asarray(arrays(SHAPE)[0])
    y, start = Norm(create(name)).init_with_output(jax.random.key(0), x, Mode(train=True))
    assert y is x
    assert start == {}


@pytest.mark.parametrize("name", ["bn", "brn", "bgn", "wn-centred"])
def test_moments_are_the_batchs_own(name):
  spec = SPECS[name]
  x, dy, gamma, beta, mean, var = arrays_of(spec)
  start = variables(spec, gamma, beta, mean, var)
  mask, real = jnp.asarray(REAL, jnp.float32), x[REAL].reshape(18, len(mean), -1).astype(np.float64)
  _, _, changed = run(spec, x, dy, start, mutable=("moments",), mask=mask, step=jnp.int32(15))
  assert set(changed) == {"moments"}  # the statistics stay where nobody asked for new ones
  count, batch_mean, m2 = changed["moments"]["batch"]
  assert count == 18 * real.shape[-1]
  assert_close(batch_mean, real.mean((0, 2)))
  assert_close(m2, count * real.var((0, 2)) if spec.scale else np.zeros(4))
  _, _, changed = run(spec, x, dy, start, mutable=("batch_stats",), mask=mask, step=jnp.int32(15))
  assert set(changed) == {"batch_stats"}
  _, _, changed = run(spec, x, dy, start, train=False)
  assert "moments" not in changed


# ------------------------------------------------------------------ across nodes

NODES, PER_NODE = 4, 3


def on_vmap(fn, *args):
  return jax.jit(jax.vmap(fn, axis_name="nodes"))(*args)


def in_two(args):
  return [jnp.reshape(jnp.asarray(a), (2, NODES // 2, *a.shape[1:])) for a in args]


def on_pmap(fn, *args):
  out = jax.pmap(jax.vmap(fn, axis_name="nodes"), "devices")(*in_two(args))
  return jax.tree.map(lambda a: np.asarray(a).reshape(NODES, *a.shape[2:]), out)


def on_shard_map(fn, *args):
  mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    jax.vmap(fn, axis_name="nodes"),
    mesh=mesh,
    in_specs=P("devices"),
    out_specs=P("devices"),
    check_vma=False,
  )
  return jax.jit(mapped)(*args)


MAPPINGS = {
  "vmap": (on_vmap, ("nodes",)),
  "pmap": (on_pmap, ("devices", "nodes")),
  "shard_map": (on_shard_map, ("devices", "nodes")),
}


ACROSS = {
  "sync_bn": SPECS["sync_bn"],
  "in groups": NormSpec("own", "NSK", groups=2, across_clients=True),
  "centred": NormSpec("own", "NSK", group_size=2, across_clients=True, scale=False),
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
def test_a_norm_across_nodes_is_one_big_batch(name, mapping, counts):
  run_mapped, axis_names = MAPPINGS[mapping]
  spec = ACROSS[name].bind(axis_names)
  x, dy, gamma, beta, mean, var = arrays_of(spec, (NODES, PER_NODE, 2, 2, 4))
  x += np.arange(NODES, dtype=np.float32)[:, None, None, None, None]  # the nodes differ
  mask = (np.arange(PER_NODE) < np.array(counts)[:, None]).astype(np.float32)
  dy *= mask[..., None, None, None]

  def node(x, dy, mask):
    # one node's own loss: autodiff of psum is what carries the other nodes' gradients here
    return run(spec, x, dy, variables(spec, gamma, beta, mean, var), mask=mask)

  y, (dx, grads), changed = run_mapped(node, x, dy, mask)
  real = mask > 0
  expected = by_hand(x[real], dy[real], gamma, beta, mean, var, scale=spec.scale)
  for stats in (jax.tree.map(lambda a, i=i: a[i], changed) for i in range(NODES)):
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


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
  ("spec", "shape", "message"),
  [
    (create("in"), (3, 1, 1, 4), "'in' would normalize single elements of a 1x1x4 activation"),
    (create("in"), (3, 4), "'in' would normalize single elements of a 4 activation"),
    (create("cn"), (3, 2, 2, 1), "'cn' would normalize single elements of a 2x2x1 activation"),
    (create("gn", group_size=1), (3, 1, 1, 4), "larger groups or another norm"),
    (create("gn", groups=4), (3, 4), "larger groups or another norm"),
    (create("bn"), (1, 1, 1, 4), r"use larger images \(or batches\)"),
    (create("bn"), (1, 4), "'bn' would normalize single elements"),
    (SPECS["brn"], (1, 4), "'brn' would normalize single elements"),
    (SPECS["wn-centred"], (1, 4), "'wn' would normalize single elements"),
    (create("gn", groups=3), (2, 2, 2, 4), "3 groups do not divide a layer of 4 channels"),
    (create("gn", group_size=3), (2, 4), "a group size of 3 does not divide .* 4 channels"),
  ],
)
def test_a_norm_that_would_leave_nothing_is_refused(spec, shape, message):
  with pytest.raises(UserError, match=message):
    Norm(spec).init(jax.random.key(0), jnp.ones(shape), Mode(train=True))


def test_what_is_not_refused():
  one = jnp.full((1, 1, 1, 4), 3.0)
  # evaluation reduces nothing, and other nodes may bring what this one lacks
  y, _ = Norm(create("bn")).init_with_output(jax.random.key(0), one, Mode())
  assert_close(y, np.full(one.shape, 3 / np.sqrt(1 + EPSILON)))
  spec = create("sync_bn").bind(("nodes",))
  start = variables(spec, jnp.ones(4), jnp.zeros(4), jnp.zeros(4), jnp.ones(4))

  def node(x):
    return Norm(spec).apply(start, x, Mode(train=True), mutable=["moments"])[0]

  nodes = jnp.stack([one, -one])
  signs = np.outer([1, -1], np.ones(4))
  assert_close(jax.vmap(node, axis_name="nodes")(nodes)[:, 0, 0, 0], signs, 1e-4)
  with pytest.raises(NameError, match="nodes"):  # unless nodes run one after another
    jax.lax.map(node, nodes)
