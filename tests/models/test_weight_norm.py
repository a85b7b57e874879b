"""Weight normalization against torch, and its data-dependent initialization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.model_runs import KEY, TRAIN, WN, calls, normal, randomized, tensor

from fedjax_norm import models
from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.norm import Norm, create


def vector_jacobian(layer, params, x, dy):
  y, pullback = jax.vjp(lambda p, x: layer.apply({"params": p}, x, TRAIN), params, x)
  return y, pullback(dy)


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_weight_norm_equals_torch(kind):
  if kind == "conv":
    layer, x = Conv(5, (3, 2), WN, padding="VALID"), normal(3, 5, 4, 2)
    theirs = torch.nn.Conv2d(2, 5, (3, 2))
    kernel_in, kernel_out = (3, 2, 0, 1), (2, 3, 1, 0)
    to, back = (lambda a: tensor(a).permute(0, 3, 1, 2)), (lambda a: a.permute(0, 2, 3, 1))
  else:
    layer, x, theirs = Dense(5, WN), normal(3, 4), torch.nn.Linear(4, 5)
    kernel_in = kernel_out = (1, 0)
    to, back = tensor, lambda a: a
  start = layer.init(KEY, x, TRAIN)["params"]
  v = np.asarray(start["kernel"])
  length = np.sqrt((v**2).sum(tuple(range(v.ndim - 1))))
  np.testing.assert_allclose(start["kernel_scale"], length, rtol=1e-6)  # so the initial kernel is v

  params = randomized(start)
  v, g = params["kernel"], params["kernel_scale"]
  theirs = torch.nn.utils.parametrizations.weight_norm(theirs, dim=0)
  weights = theirs.parametrizations.weight
  weights.original0.data = tensor(g).reshape(-1, *[1] * (v.ndim - 1))
  weights.original1.data = tensor(v).permute(kernel_in).contiguous()
  theirs.bias.data = tensor(params["bias"])
  expected = theirs(to(x))
  dy = normal(*back(expected).shape, seed=1)
  expected.backward(to(dy))
  y, (grads, _) = vector_jacobian(layer, params, x, dy)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  close(y, back(expected.detach()))
  close(grads["kernel_scale"], weights.original0.grad.flatten())
  close(grads["kernel"], weights.original1.grad.permute(kernel_out))
  close(grads["bias"], theirs.bias.grad)
  # only the direction of v matters
  scaled = layer.apply({"params": {**params, "kernel": 7 * v}}, x, TRAIN)
  close(scaled, y)


@pytest.mark.parametrize("mean_only_bn", [False, True])
def test_data_init_standardizes_every_pre_activation(mean_only_bn):
  model = models.create("tiny", create("wn", mean_only_bn=mean_only_bn), 5, (6, 6, 2))
  x = 3 + 2 * normal(16, 6, 6, 2)
  start = models.init(model, KEY, (6, 6, 2))
  variables = models.data_init(model, start, jnp.asarray(x))
  layers = calls(model, variables, x, kinds=(Conv, Dense, Norm))
  linear = [call for call in layers if not isinstance(call[0], Norm)]
  assert len(linear) == 4
  for module, _, out in linear:
    axes = tuple(range(out.ndim - 1))
    np.testing.assert_allclose(out.std(axes), 1, atol=1e-3)
    if isinstance(module, Dense) or not mean_only_bn:
      np.testing.assert_allclose(out.mean(axes), 0, atol=1e-3)
  if mean_only_bn:
    norms = [call for call in layers if isinstance(call[0], Norm)]
    assert len(norms) == 3
    for _, into, out in norms:
      means = into.mean((0, 1, 2))
      assert np.abs(means).max() > 0.1  # the norm centres, before its ReLU
      np.testing.assert_allclose(out, np.maximum(into - means, 0), atol=1e-3)
  # directions and statistics do not change
  assert jax.tree.structure(variables) == jax.tree.structure(start)
  for (path, before), after in zip(
    jax.tree.leaves_with_path(start), jax.tree.leaves(variables), strict=True
  ):
    changes = path[0].key == "params" and path[-1].key in ("kernel_scale", "bias")
    if not changes:
      np.testing.assert_array_equal(before, after)
    elif path[-2].key.startswith(("Conv", "Dense")):
      assert np.abs(before - after).min() > 0


def test_data_init_does_not_change_the_scale_of_constant_units():
  layer = Dense(3, WN)
  x = jnp.zeros((4, 2))
  params = layer.init(KEY, x, TRAIN)["params"]
  mode = TRAIN._replace(data_init=True)
  _, changed = layer.apply({"params": params}, x, mode, mutable=["params"])
  jax.tree.map(np.testing.assert_array_equal, changed["params"], params)
