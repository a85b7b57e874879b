"""The small networks against torch, and dropout."""

import functools

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen as nn
from helpers.model_runs import (
  BN,
  KEY,
  NONE,
  assert_equals_torch,
  images,
  normal,
  torch_conv,
  torch_dense,
  torch_norm,
)

from fedjax_norm import models
from fedjax_norm.norm import Mode


def torch_lenet(variables, x):
  params = variables["params"]
  pool = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
  x = torch_norm(torch_conv(images(x), params["Conv_0"], pads=[2] * 4), variables, "Norm_0")
  x = F.relu(F.max_pool2d(x, **pool))
  for i in (1, 2):
    x = torch_norm(torch_conv(x, params[f"Conv_{i}"], pads=[2] * 4), variables, f"Norm_{i}")
    x = F.avg_pool2d(F.relu(x), **pool, count_include_pad=False)
  x = torch_dense(x.permute(0, 2, 3, 1).flatten(1), params["Dense_0"])
  return torch_dense(x, params["Dense_1"])


@pytest.mark.parametrize("norm", [NONE, BN], ids=["none", "bn"])
def test_lenet_equals_torch(norm):
  assert_equals_torch(models.create("lenet", norm, 7, (18, 13, 3)), torch_lenet, (18, 13, 3))


def torch_lenet5(variables, x):
  params, x = variables["params"], images(x)
  for i in (0, 1):
    x = torch_norm(torch_conv(x, params[f"Conv_{i}"], pads=[0] * 4), variables, f"Norm_{i}")
    x = F.max_pool2d(x, 2, ceil_mode=True)
  x = F.relu(torch_dense(x.permute(0, 2, 3, 1).flatten(1), params["Dense_0"]))
  return torch_dense(x, params["Dense_1"])


def test_lenet5_equals_torch():
  assert_equals_torch(models.create("lenet5", BN, 7, (15, 17, 2)), torch_lenet5, (15, 17, 2))


def torch_niid(variables, x):
  params, x = variables["params"], images(x)
  for i in (0, 1):
    x = torch_norm(torch_conv(x, params[f"Conv_{i}"], pads=[0] * 4), variables, f"Norm_{i}")
    x = F.max_pool2d(F.relu(x), 2)
  x = x.permute(0, 2, 3, 1).flatten(1)
  for i in (0, 1):
    x = F.relu(torch_dense(x, params[f"Dense_{i}"]))
  return torch_dense(x, params["Dense_2"])


def test_niid_equals_torch():
  assert_equals_torch(models.create("niid", BN, 7, (17, 18, 1)), torch_niid, (17, 18, 1))


def test_niid_has_the_initialization_of_torch():
  params = models.init(models.create("niid", NONE, 7, (32, 32, 3)), KEY, (32, 32, 3))["params"]
  torch.manual_seed(0)
  for name, layer in (
    ("Conv_1", torch.nn.Conv2d(6, 16, 5)),
    ("Dense_0", torch.nn.Linear(400, 120)),
  ):
    for kind, theirs in (("kernel", layer.weight), ("bias", layer.bias)):
      ours, theirs = np.asarray(params[name][kind]), theirs.detach().numpy()
      # All values are uniform within +-1 / sqrt(fan_in); a layer has at least 16.
      np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.2)
      np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.4)


def test_dropout_is_used_only_in_training():
  model = models.create("cnn", NONE, 3, (8, 8, 1))
  variables, x = models.init(model, KEY, (8, 8, 1)), normal(32, 8, 8, 1)

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def logits(train, dropout, seed):
    rngs = {"dropout": jax.random.key(seed)} if train and dropout else None
    arrays = []

    def record(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if isinstance(context.module, nn.Dropout):
        arrays.append((args[0], out))
      return out

    with nn.intercept_methods(record):
      return model.apply(variables, x, Mode(train, dropout), rngs=rngs), arrays

  evaluated, _ = logits(False, True, 0)
  np.testing.assert_array_equal(evaluated, logits(True, False, 0)[0])
  one, arrays = logits(True, True, 0)
  assert np.abs(one - evaluated).max() > 1e-3
  assert np.abs(one - logits(True, True, 1)[0]).max() > 1e-3
  assert len(arrays) == 2
  for rate, (before, after) in zip((0.25, 0.5), arrays, strict=True):
    before, after = np.asarray(before), np.asarray(after)
    active = before > 0
    remaining = active & (after != 0)
    np.testing.assert_allclose(after[remaining], before[remaining] / (1 - rate), rtol=1e-5)
    # four standard deviations of the remaining share
    np.testing.assert_allclose(
      remaining.sum() / active.sum(), 1 - rate, atol=4 * np.sqrt(rate * (1 - rate) / active.sum())
    )
