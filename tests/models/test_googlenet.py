"""GoogLeNet against torch with the same weights, published counts, and its auxiliary losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen as nn
from helpers.settings import plain
from helpers.torch_units import (
  KEY,
  assert_close,
  channels_first,
  count,
  dense,
  flat,
  images,
  module_calls,
  randomized,
  shapes,
  unit,
)

from fedjax_norm import models
from fedjax_norm.local_training import make_gradient
from fedjax_norm.models.flops import layer_macs
from fedjax_norm.models.googlenet import Auxiliary, GoogLeNet, Inception
from fedjax_norm.models.layers import Dense
from fedjax_norm.norm import Mode, NormSpec, create
from fedjax_norm.ops import conv
from fedjax_norm.typing import Batch

NONE, BN = create("none"), create("bn")
LARGE = (224, 224, 3)


def torch_inception(x, params):
  branches = [
    unit(x, params["1x1"]),
    unit(unit(x, params["3x3_reduce"]), params["3x3"]),
    unit(unit(x, params["5x5_reduce"]), params["5x5"]),
    unit(F.max_pool2d(x, 3, 1, 1), params["pool_proj"]),
  ]
  return torch.cat(branches, 1)


def torch_auxiliary(x, params):
  x = unit(F.avg_pool2d(x, min(5, *x.shape[2:]), 3), params["Unit_0"])
  return dense(F.relu(dense(flat(x), params["Dense_0"])), params["Dense_1"])


def torch_googlenet(stem, variables, x):
  """Returns the logits, and the logits of the two auxiliary classifiers."""
  params, x = variables["params"], channels_first(x)
  pool = functools.partial(F.max_pool2d, kernel_size=3, stride=2, ceil_mode=True)
  x = pool(unit(x, params["Unit_0"], 2 if stem == "imagenet" else 1))
  x = pool(unit(unit(x, params["Unit_1"]), params["Unit_2"]))
  for name in ("3a", "3b"):
    x = torch_inception(x, params[f"inception_{name}"])
  x = first = torch_inception(pool(x), params["inception_4a"])
  for name in ("4b", "4c", "4d"):
    x = torch_inception(x, params[f"inception_{name}"])
  second = x
  x = pool(torch_inception(x, params["inception_4e"]))
  for name in ("5a", "5b"):
    x = torch_inception(x, params[f"inception_{name}"])
  heads = [
    torch_auxiliary(x, params[f"auxiliary_{name}"]) for name, x in (("4a", first), ("4d", second))
  ]
  return dense(x.mean((2, 3)), params["Dense_0"]), heads


def test_googlenet_and_its_auxiliary_losses_equal_torch(monkeypatch):
  # XLA's lowering compiles faster; other tests compare the lowerings.
  monkeypatch.setattr(conv, "default_platform", lambda: "gpu")
  size = (33, 40, 3)
  model = GoogLeNet(NONE, 5, "imagenet")
  variables, x = randomized(shapes(model, size)), images(3, *size)
  labels, mask = np.array([4, 0, 2]), np.array([1.0, 1.0, 0.0])
  mode = Mode(train=True, dropout=False, mask=jnp.asarray(mask), labels=jnp.asarray(labels))
  logits, changed = jax.jit(lambda v, x: model.apply(v, x, mode, mutable=["losses"]))(variables, x)
  expected, heads = torch_googlenet("imagenet", variables, x)
  assert_close(logits, expected)
  for name, head in zip(("4a", "4d"), heads, strict=True):
    (loss,) = changed["losses"].pop(f"auxiliary_{name}")["auxiliary"]
    real = torch.tensor(labels[:2])  # the third example is padding
    assert_close(loss, 0.3 * F.cross_entropy(head[:2], real, reduction="sum"))
  assert not changed["losses"]


def test_a_module_with_batch_norm_equals_torch():
  module, x = Inception(dict(models.googlenet.MODULES)["4b"], BN), images(2, 4, 3, 8)
  mode = Mode(train=True)
  variables = randomized(jax.eval_shape(lambda: module.init(KEY, x, mode)))
  y, _ = jax.jit(lambda v: module.apply(v, x, mode, mutable=["batch_stats"]))(variables)
  assert_close(np.moveaxis(y, -1, 1), torch_inception(channels_first(x), variables["params"]))


@pytest.mark.parametrize(
  ("norm", "auxiliary", "expected"),
  [
    (NONE, 0.0, 6_998_552),  # Caffe's count
    (NONE, 0.3, 13_378_280),
    # torchvision has 6,624,904 parameters, with 3x3 instead of the paper's 5x5 kernels
    (BN, 0.0, 6_624_904 + (5 * 5 - 3 * 3) * (
      16 * 32 + 32 * 96 + 16 * 48 + 2 * 24 * 64 + 32 * 64 + 2 * 32 * 128 + 48 * 128
    )),
  ],
)  # fmt: skip
def test_parameter_counts(norm, auxiliary, expected):
  assert count(GoogLeNet(norm, 1000, "imagenet", auxiliary), LARGE) == expected


def test_the_multiply_adds_are_those_of_table_1():
  # The sum of the rows of table 1; the text says "1.5 billion multiply-adds".
  macs = layer_macs(GoogLeNet(NONE, 1000, "imagenet", 0.0), LARGE)
  assert sum(macs.values()) == pytest.approx(1.58e9, rel=0.01)


def test_only_training_has_auxiliary_classifiers():
  model = GoogLeNet(NONE, 5)
  run = functools.partial(module_calls, model, (32, 32, 3))
  labels = jnp.zeros(2, jnp.int32)

  calls, changed = run(Mode(labels=labels), Auxiliary, nn.Dropout)
  assert [type(module) for module, *_ in calls] == [nn.Dropout]
  assert calls[0][0].deterministic
  assert not changed

  calls, changed = run(Mode(train=True), Auxiliary, nn.Dropout)  # without labels, as step_bytes
  assert [m.rate for m, *_ in calls if isinstance(m, nn.Dropout)] == [0.7, 0.7, 0.4]
  assert [m.name for m, *_ in calls if isinstance(m, Auxiliary)] == ["auxiliary_4a", "auxiliary_4d"]
  assert not changed


class WithHead(nn.Module):
  """A linear classifier of images, with an auxiliary classifier."""

  norm: NormSpec
  weight: float

  @nn.compact
  def __call__(self, x, mode):
    x = jnp.tanh(Dense(12, self.norm)(x.reshape(len(x), -1), mode))
    if self.weight and (mode.train or self.is_initializing()):
      Auxiliary(4, self.weight, self.norm)(x.reshape(-1, 2, 2, 3), mode)
    return Dense(4, self.norm)(x, mode)


def test_the_gradient_is_that_of_the_sum_of_the_losses(monkeypatch):
  monkeypatch.setattr(conv, "default_platform", lambda: "gpu")
  x, labels = jnp.asarray(images(4, 2, 2, 3)), jnp.array([3, 1, 0, 2], jnp.int32)
  mask = jnp.array([1.0, 1.0, 0.0, 1.0])
  model = WithHead(NONE, 0.3)
  variables = randomized(shapes(model, x.shape[1:]))
  assert set(variables) == {"params"}
  params = variables["params"]

  def loss(params, weight):
    """Returns the mean loss of the three real examples, from the logits of both classifiers."""
    logits = {}

    def record(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if isinstance(context.module, Dense):
        logits["/".join(context.module.path)] = out
      return out

    with nn.intercept_methods(record):
      model.apply({"params": params}, x, Mode(train=True), rngs={"dropout": KEY})
    label_logits = [
      jnp.take_along_axis(jax.nn.log_softmax(logits[name]), labels[:, None], 1)[:, 0]
      for name in ("Dense_1", "Auxiliary_0/Dense_1")
    ]
    main, auxiliary = (-(values * mask).sum() / 3 for values in label_logits)
    return main + weight * auxiliary, main

  by_hand = jax.jit(jax.grad(loss, has_aux=True))
  expected, main = by_hand(params, 0.3)
  without, _ = by_hand(params, 0.0)
  gradient = jax.jit(make_gradient(model, plain(batch_size=4)))
  grads, stats, metrics = gradient(params, {}, Batch(x, labels, mask), jnp.float32(0), KEY)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, grads, expected)
  assert stats == {}
  close(metrics.loss, 3 * main)  # the metrics are those of the main classifier
  # Without the auxiliary loss, the gradient of the shared layer would differ.
  assert np.abs(grads["Dense_0"]["kernel"] - without["Dense_0"]["kernel"]).max() > 1e-3
