"""The client's SGD against PyTorch's, and the effect of its options on a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from helpers.reference_fedavg import random_variables
from helpers.settings import plain

from fedjax_norm import models, norm
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import (
  make_client_update,
  make_gradient,
  measure,
  optimizer,
  step_bytes,
)
from fedjax_norm.typing import Batch

SHAPE = (6, 6, 1)


def tree(rng):
  return {
    "a": {"kernel": rng.standard_normal((3, 2)).astype(np.float32)},
    "b": rng.standard_normal(4).astype(np.float32),
  }


@pytest.mark.parametrize(
  ("momentum", "nesterov", "decay"),
  [(0, False, 0), (0, False, 0.1), (0.9, False, 0), (0.9, False, 0.1), (0.8, True, 0.1)],
)
def test_sgd_equals_pytorch_step_by_step(momentum, nesterov, decay):
  rng = np.random.default_rng(0)
  params, gradients = tree(rng), [tree(rng) for _ in range(5)]
  rates = [0.1, 0.3, 0.05, 0.2, 0.1]
  theirs = [torch.tensor(leaf) for leaf in jax.tree.leaves(params)]
  sgd = torch.optim.SGD(theirs, 1.0, momentum, weight_decay=decay, nesterov=nesterov)
  transform = optimizer(plain(momentum=momentum, nesterov=nesterov, weight_decay=decay))
  state = transform.init(params)
  for rate, gradient in zip(rates, gradients, strict=True):
    updates, state = transform.update(gradient, state, params)
    params = jax.tree.map(lambda w, u, rate=rate: w - rate * u, params, updates)
    sgd.param_groups[0]["lr"] = rate
    for leaf, g in zip(theirs, jax.tree.leaves(gradient), strict=True):
      leaf.grad = torch.tensor(g)
    sgd.step()
    for mine, leaf in zip(jax.tree.leaves(params), theirs, strict=True):
      np.testing.assert_allclose(mine, leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_equals_pytorch_and_comes_before_decay(limit):
  rng = np.random.default_rng(1)
  params, gradient = tree(rng), tree(rng)
  config = plain(clip_norm=limit, weight_decay=0.1)
  updates, _ = optimizer(config).update(gradient, optimizer(config).init(params), params)
  theirs = [torch.tensor(leaf, requires_grad=True) for leaf in jax.tree.leaves(params)]
  for leaf, g in zip(theirs, jax.tree.leaves(gradient), strict=True):
    leaf.grad = torch.tensor(g)
  norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
  assert (norm > limit) == (limit == 0.5)
  for update, leaf in zip(jax.tree.leaves(updates), theirs, strict=True):
    np.testing.assert_allclose(update, leaf.grad + 0.1 * leaf.detach(), rtol=1e-5, atol=1e-6)


def test_frozen_parameters_do_not_move_under_any_option():
  rng = np.random.default_rng(2)
  params, gradient = tree(rng), tree(rng)
  config = plain(
    momentum=0.9, weight_decay=0.1, clip_norm=0.5, frozen_paths=frozenset({"a/kernel"})
  )
  updates, _ = optimizer(config).update(gradient, optimizer(config).init(params), params)
  assert not np.any(updates["a"]["kernel"])
  assert np.all(updates["b"] != 0)


def test_the_optimizer_state_has_the_same_structure_in_all_phases():
  params = tree(np.random.default_rng(3))
  before = optimizer(plain(momentum=0.9)).init(params)
  after = plain(momentum=0.9, clip_norm=1.0, frozen_paths=frozenset({"b"}))
  assert jax.tree.structure(before) == jax.tree.structure(optimizer(after).init(params))


def test_metrics_count_only_real_examples():
  rng = np.random.default_rng(4)
  logits = rng.standard_normal((6, 3)).astype(np.float32)
  labels = np.array([0, 1, 2, 0, 1, 2])
  mask = np.array([1, 1, 0, 1, 0, 1], np.float32)
  metrics = measure("classification", logits, Batch(None, jnp.asarray(labels), jnp.asarray(mask)))
  real = mask > 0
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits[real]), torch.tensor(labels[real])
  )
  np.testing.assert_allclose(metrics.loss, 4 * expected, rtol=1e-6)
  assert metrics.correct == (logits[real].argmax(1) == labels[real]).sum()
  assert metrics.examples == 4
  # NaNs in padded examples change neither the loss nor the gradient.
  logits[~real] = np.nan
  batch = Batch(None, jnp.asarray(labels), jnp.asarray(mask))
  again, gradient = jax.value_and_grad(lambda x: measure("classification", x, batch).loss)(
    jnp.asarray(logits)
  )
  assert again == metrics.loss
  assert np.isfinite(gradient[real]).all()


@pytest.fixture(scope="module")
def client(tiny_net, tiny_source):
  """Returns (variables, make): make(config, extra_loss) -> run, and run(steps, rate) -> output."""
  model = tiny_net(norm=norm.create("bn"))
  variables = models.init(model, jax.random.key(0), SHAPE)
  images, labels = tiny_source.train.images[:40], tiny_source.train.labels[:40]

  def draw(step):
    rows = step * 4 + jnp.arange(4)
    return Batch(jnp.asarray(images)[rows], jnp.asarray(labels)[rows], jnp.ones(4))

  def make(config, extra_loss=None):
    update = make_client_update(model, config)
    state = optimizer(config).init(variables["params"])

    @jax.jit
    def run(first, steps, rate):
      key = jax.random.key(1)
      return update(variables, state, draw, first, steps, rate, key, extra_loss=extra_loss)

    return lambda steps, rate=0.1, first=0: run(
      jnp.int32(first), jnp.int32(steps), jnp.float32(rate)
    )

  return variables, make


def test_zero_steps_change_nothing_and_the_first_step_chooses_the_batches(client):
  variables, make = client
  config = plain(batch_size=4, momentum=0.9, weight_decay=0.1)
  run = make(config)
  out = run(0)
  assert jax.tree.structure(out.variables) == jax.tree.structure(variables)
  for a, b in zip(jax.tree.leaves(out.variables), jax.tree.leaves(variables), strict=True):
    np.testing.assert_array_equal(a, b)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(out.opt_state))
  assert tuple(out.metrics) == (0, 0, 0)
  # With another first step, the client draws other examples.
  one, other = run(1), run(1, first=3)
  assert one.metrics.examples == other.metrics.examples == 4
  assert one.metrics.loss != other.metrics.loss
  assert run(3).metrics.examples == 12
  moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)]
  assert max(moved) > 1e-3


def test_an_extra_loss_adds_its_gradient_to_every_step(client):
  # FedProx penalizes the distance to the start: two clients that differ only in mu take two steps.
  # The first steps are equal, and the second steps differ by -rate mu (w_1 - w_0).
  variables, make = client
  mu, rate = 0.5, 0.2
  start = variables["params"]

  def distance(params):
    return mu / 2 * optax.tree.norm(optax.tree.sub(params, start), squared=True)

  free, prox = make(plain(batch_size=4)), make(plain(batch_size=4), distance)
  first = free(1, rate).variables["params"]
  for a, b in zip(*map(jax.tree.leaves, (first, prox(1, rate).variables["params"])), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
  pulled = jax.tree.map(
    lambda w2, w1, w0: w2 - rate * mu * (w1 - w0), free(2, rate).variables["params"], first, start
  )
  actual = prox(2, rate).variables["params"]
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(pulled), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  pull = optax.tree.norm(jax.tree.map(jnp.subtract, first, start)) * rate * mu
  assert pull > 1e-3  # far above the tolerance


@pytest.fixture
def on_gpu(monkeypatch):
  """Convolutions have the forms of a GPU."""
  monkeypatch.setattr("fedjax_norm.ops.conv.default_platform", lambda: "gpu")


@pytest.mark.usefixtures("on_gpu")
def test_the_bytes_of_a_step_are_four_models_and_the_arrays_of_each_example(tiny_net):
  def total(batch_size, dtype=jnp.float32):
    config = plain(batch_size=batch_size)
    model = tiny_net(norm=norm.create("gn", groups=2))
    return step_bytes(model, config, jax.ShapeDtypeStruct((6, 6, 1), dtype))

  # conv 3x3x1x8, the norm's scale and bias, dense 8x4 with a bias
  four_models = 4 * 4 * (72 + 16 + 36)
  example = total(3) - total(2)
  assert total(9) - total(8) == example
  # At least the image, the 6x6x8 inputs of the norm and the ReLU, and the pooled features; and the
  # 9 values of the image of each of the convolution's 6x6x8 outputs.
  product = 36 * 9 + 288
  assert 4 * (36 + 2 * 288 + 8 + product) <= example <= 4 * (36 + 5 * 288 + 8 + product) + 200
  assert four_models <= total(1) - example <= four_models + 4 * (2 * 72 + 36) + 200
  assert total(3, jnp.bfloat16) - total(2, jnp.bfloat16) < example


@pytest.mark.usefixtures("on_gpu")
def test_the_bytes_of_a_step_include_the_patches_of_its_largest_convolution(tiny_net, monkeypatch):
  model = tiny_net(norm=norm.create("gn", groups=2))
  image = jax.ShapeDtypeStruct((6, 6, 1), jnp.float32)
  total = {}
  for form in ("patches", "xla"):
    monkeypatch.setattr("fedjax_norm.ops.batching.choose", lambda *_, form=form: form)
    total[form] = step_bytes(model, plain(batch_size=5), image)
  assert total["patches"] - total["xla"] == 4 * 5 * 36 * (9 - 1)  # nine copies of the images


def test_parts_must_be_equal():
  for parts, message in (
    (0, "at least 1"), (-1, "at least 1"), (3, "cannot be divided"), (8, "cannot be divided")
  ):  # fmt: skip
    with pytest.raises(UserError, match=message):
      plain(batch_size=4, accumulate=parts)


@pytest.fixture(scope="module")
def padded(tiny_net, tiny_source):
  """Returns (norm, parts) -> the client's output after four steps; most batches are padded."""
  images, labels = tiny_source.train.images, tiny_source.train.labels
  counts = jnp.array([8, 3, 1, 6])

  def draw(step):
    rows = step * 8 + jnp.arange(8)
    mask = (jnp.arange(8) < counts[step]).astype(jnp.float32)
    return Batch(jnp.asarray(images)[rows], jnp.asarray(labels)[rows], mask)

  def make(spec, parts):
    model = tiny_net(norm=spec)
    variables = random_variables(model, SHAPE)
    config = plain(batch_size=8, momentum=0.9, weight_decay=0.1, clip_norm=1.0, accumulate=parts)
    update, state = make_client_update(model, config), optimizer(config).init(variables["params"])

    @jax.jit
    def run(variables):
      bounds = jnp.int32(0), jnp.int32(4)
      return update(variables, state, draw, *bounds, jnp.float32(0.3), jax.random.key(1))

    return run(variables)

  return make


@pytest.mark.parametrize("parts", [2, 8])
def test_parts_equal_the_whole_batch_unless_the_norm_reduces_the_batch(padded, parts):
  """Of eight parts of one example, up to seven are padding only."""
  gn, bn = norm.create("gn", groups=2), norm.create("bn")
  whole, divided = padded(gn, 1), padded(gn, parts)
  assert divided.metrics.examples == whole.metrics.examples == 18
  for a, b in zip(jax.tree.leaves(divided), jax.tree.leaves(whole), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  if parts == 2:
    kernels = [padded(bn, k).variables["params"]["Conv_0"]["kernel"] for k in (1, parts)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_each_part_drops_other_units(tiny_net, tiny_source):
  """The same example in eight parts gives the mean of the gradients of eight keys."""
  model = tiny_net(norm=norm.create("none"), dropout=0.5)
  params = random_variables(model, SHAPE)["params"]
  example = Batch(
    *(jnp.asarray(a[:1]) for a in (tiny_source.train.images, tiny_source.train.labels)), jnp.ones(1)
  )
  key = jax.random.key(5)

  def kernel_gradient(batch, parts, key):
    config = plain(batch_size=parts, accumulate=parts)
    return make_gradient(model, config)(params, {}, batch, jnp.int32(0), key)[0]["Dense_0"][
      "kernel"
    ]

  eight = jax.tree.map(lambda a: a.repeat(8, 0), example)
  whole = jax.jit(lambda key: kernel_gradient(eight, 8, key))(key)
  keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(8))
  single = jax.jit(lambda keys: jax.lax.map(lambda key: kernel_gradient(example, 1, key), keys))(
    keys
  )
  np.testing.assert_allclose(whole, single.mean(0), rtol=1e-5, atol=1e-6)
  assert single.std(0).max() > 1e-2


def test_a_norm_over_the_joint_batch_rejects_parts(tiny_net):
  config = plain(batch_size=4, accumulate=2)
  model = tiny_net(norm=norm.create("sync_bn"))
  with pytest.raises(UserError, match="accumulate=2 processes it in parts"):
    make_gradient(model, config, ("clients",))
  with pytest.raises(UserError, match="accumulate=2"):
    make_client_update(model, config, ("clients",))
