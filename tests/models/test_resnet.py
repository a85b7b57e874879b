"""ResNets against torch, with batch norm and Fixup; initialization and scalars of Fixup."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch.nn.functional as F
from helpers.model_runs import (
  BN,
  FIXUP,
  KEY,
  TRAIN,
  assert_equals_torch,
  calls,
  images,
  normal,
  tensor,
  torch_conv,
  torch_dense,
  torch_norm,
)

from fedjax_norm import models
from fedjax_norm.models.resnet import Block, ResNet, Scalar
from fedjax_norm.norm import Mode


def torch_resnet(variables, x, model: ResNet):
  """A ResNet according to the papers of ResNet and Fixup."""
  params = variables["params"]

  def scalars(scope):
    """Returns an iterator over the offsets of a scope, and its multiplier."""
    values = [scope[f"Scalar_{i}"] for i in range(10) if f"Scalar_{i}" in scope]
    offsets = iter([tensor(s["offset"]) for s in values if "offset" in s])
    multiplier = [tensor(s["multiplier"]) for s in values if "multiplier" in s]
    return (lambda: next(offsets, 0.0)), (multiplier[0] if multiplier else 1.0)

  offset, _ = scalars(params)
  x = images(x)
  if model.stem == "imagenet":
    x = torch_conv(x, params["Conv_0"], 2, [3] * 4)
  else:
    x = torch_conv(x, params["Conv_0"])
  x = F.relu(torch_norm(x, variables, "Norm_0") + offset())
  if model.stem == "imagenet":
    x = F.max_pool2d(x, 3, 2, 1)
  index = 0
  for stage, blocks in enumerate(model.blocks):
    for block in range(blocks):
      stride = 2 if stage > 0 and block == 0 else 1
      scope, path = params[f"Block_{index}"], (f"Block_{index}",)
      before, multiplier = scalars(scope)
      norm = functools.partial(torch_norm, variables=variables, path=path)
      strides = [1, stride, 1] if model.bottleneck else [stride, 1]
      biased = y = x + before()
      for i, s in enumerate(strides):
        y = norm(torch_conv(y, scope[f"Conv_{i}"], s), name=f"Norm_{i}")
        if i < len(strides) - 1:
          y = F.relu(y + before()) + before()
      y = y * multiplier + before()
      if "shortcut" in scope:
        x = norm(torch_conv(biased, scope["shortcut"], stride, [0] * 4), name="shortcut_norm")
      elif x.shape != y.shape:
        x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
      x = F.relu(x + y)
      index += 1
  return torch_dense(x.mean((2, 3)) + offset(), params["Dense_0"])


RESNETS = {
  "projection": ResNet((1, 1), 8, BN, 5),
  "bottleneck, imagenet": ResNet((1, 1), 4, BN, 5, bottleneck=True, stem="imagenet"),
  "fixup bottleneck": ResNet((1, 1), 2, FIXUP, 5, bottleneck=True),
  "fixup, zero channels": ResNet((1, 1), 4, FIXUP, 5, projection=False),
}


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_equal_torch(name):
  model = RESNETS[name]
  size = (18, 16, 3) if model.stem == "imagenet" else (8, 7, 3)
  assert_equals_torch(model, functools.partial(torch_resnet, model=model), size)


@functools.cache
def initial(model, image_shape):
  return models.init(model, KEY, image_shape)


BRANCHES = {
  "basic": ResNet((1, 2), 32, FIXUP, 5),
  "bottleneck": ResNet((1, 2), 32, FIXUP, 5, bottleneck=True),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_of_fixup_are_initially_zero(name):
  model = BRANCHES[name]
  variables = initial(model, (4, 4, 3))
  layers = calls(model, variables, normal(2, 4, 4, 3), Mode())
  blocks = [(module, x, y) for module, x, y in layers if isinstance(module, Block)]
  assert len(blocks) == 3
  for block, x, y in blocks:
    inner = [call for call in layers if call[0].path[:-1] == block.path]
    branch = [out for module, _, out in inner if isinstance(module, Scalar)][-1]
    np.testing.assert_array_equal(branch, np.zeros_like(branch))
    shortcut = [out for module, _, out in inner if module.name == "shortcut"] or [x]
    np.testing.assert_array_equal(y, np.maximum(shortcut[0], 0))
    assert np.abs(y).max() > 0
  logits = layers[-1][-1]
  np.testing.assert_array_equal(logits, np.zeros((2, 5)))


@pytest.mark.parametrize(("name", "depth"), [("basic", 2), ("bottleneck", 3)])
def test_fixup_scales_he_initialization_with_the_number_of_branches(name, depth):
  params = initial(BRANCHES[name], (4, 4, 3))["params"]
  scale = 3 ** (-1 / (2 * depth - 2))  # 3 branches

  def check(kernel, expected):
    he = np.sqrt(2 / np.prod(kernel.shape[:-1]))
    error = 4 / np.sqrt(2 * kernel.size)
    np.testing.assert_allclose(kernel.std(), expected * he, rtol=error, atol=1e-12)

  check(params["Conv_0"]["kernel"], 1.0)
  for i in range(3):
    block = params[f"Block_{i}"]
    for layer in range(depth):
      check(block[f"Conv_{layer}"]["kernel"], scale if layer < depth - 1 else 0.0)
    if "shortcut" in block:
      check(block["shortcut"]["kernel"], 1.0)
  np.testing.assert_array_equal(params["Dense_0"]["kernel"], 0)


@pytest.mark.parametrize(
  ("name", "order"),
  [
    ("basic", "offset Conv_0 offset offset Conv_1 multiplier offset"),
    ("bottleneck", "offset Conv_0 offset offset Conv_1 offset offset Conv_2 multiplier offset"),
  ],
)
def test_the_scalars_of_fixup_are_where_the_paper_has_them(name, order):
  model = BRANCHES[name]
  variables = initial(model, (4, 4, 3))
  layers = calls(model, variables, normal(2, 4, 4, 3), Mode())

  def names(path):
    modules = [module for module, *_ in layers if module.path[:-1] == path and module.name]
    words = {True: "multiplier", False: "offset"}
    return [words[m.multiply] if isinstance(m, Scalar) else m.name for m in modules]

  for i in range(3):
    inner = [name for name in names((f"Block_{i}",)) if not name.startswith(("Norm", "shortcut"))]
    assert inner == order.split()
  outer = [name for name in names(()) if not name.startswith(("Norm", "Block"))]
  assert outer == ["Conv_0", "offset", "offset", "Dense_0"]
  for module, *_ in layers:  # a scalar is a single number
    if isinstance(module, Scalar):
      scope = functools.reduce(lambda tree, part: tree[part], module.path, variables["params"])
      assert [a.shape for a in jax.tree.leaves(scope)] == [()]
  biases = [path for path, _ in jax.tree.leaves_with_path(variables) if "bias" in str(path[-1])]
  assert len(biases) == 1  # the classifier's


def test_all_parameters_of_fixup_train():
  model = ResNet((1, 1), 4, FIXUP, 3)
  x, labels = normal(6, 6, 6, 1), jnp.array([0, 1, 2, 0, 1, 2])
  start = models.init(model, KEY, (6, 6, 1))["params"]

  def loss(params):
    logits = model.apply({"params": params}, x, TRAIN)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  @jax.jit
  def step(params):
    value, grads = jax.value_and_grad(loss)(params)
    return value, jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)

  params, losses = start, []
  for _ in range(40):
    value, params = step(params)
    losses.append(value)
  np.testing.assert_allclose(losses[0], np.log(3), rtol=1e-6)
  assert losses[-1] < 0.5 * losses[0]
  for (path, before), after in zip(
    jax.tree.leaves_with_path(start), jax.tree.leaves(params), strict=True
  ):
    assert np.abs(after - before).max() > 0, path
