"""Inception-v3 against torch with the same weights, and published counts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen as nn
from helpers.torch_units import (
  KEY,
  assert_close,
  channels_first,
  dense,
  images,
  module_calls,
  randomized,
  shapes,
  unit,
)

from fedjax_norm.models.inception import (
  Auxiliary,
  InceptionV3,
  ModuleA,
  ModuleB,
  ModuleC,
  ModuleD,
  ModuleE,
)
from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.norm import Mode, create
from fedjax_norm.ops import conv

NONE, BN = create("none"), create("bn")
LARGE = (299, 299, 3)
LABELS = np.zeros(2, np.int32)
MODULES = (ModuleA, ModuleB, ModuleC, ModuleD, ModuleE)


def strided(x, params):
  """A 3x3 convolution at stride 2, rounded up."""
  below, right = ((size - 3) % 2 for size in x.shape[2:])
  return unit(F.pad(x, (0, right, 0, below)), params, 2, 0)


def torch_module(kind, x, params):
  """Figures 5, 10, 6, 10 and 7, from left to right; units are numbered in this order."""
  units = iter([params[f"Unit_{i}"] for i in range(len(params))])

  def convs(x, steps):
    for _ in range(steps):
      x = unit(x, next(units))
    return x

  def mean_pooled(x):
    return convs(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 1)

  pooled = functools.partial(F.max_pool2d, kernel_size=3, stride=2, ceil_mode=True)
  match kind.__name__:
    case "ModuleA":
      branches = [convs(x, 1), convs(x, 2), convs(x, 3), mean_pooled(x)]
    case "ModuleB":
      branches = [strided(x, next(units)), strided(convs(x, 2), next(units)), pooled(x)]
    case "ModuleC":
      branches = [convs(x, 1), convs(x, 3), convs(x, 5), mean_pooled(x)]
    case "ModuleD":
      branches = [strided(convs(x, 1), next(units)), strided(convs(x, 3), next(units)), pooled(x)]
    case "ModuleE":
      three, double = convs(x, 1), convs(x, 2)
      branches = [convs(y, 1) for y in (x, three, three, double, double)] + [mean_pooled(x)]
  assert next(units, None) is None
  return torch.cat(branches, 1)


# (rows, columns) of the kernels, in the order of the units
KERNELS = {
  ModuleA: "11 11 55 11 33 33 11",
  ModuleB: "33 11 33 33",
  ModuleC: "11 11 17 71 11 71 17 71 17 11",
  ModuleD: "11 33 11 17 71 33",
  ModuleE: "11 11 33 11 13 31 13 31 11",
}


@pytest.mark.parametrize(
  ("kind", "extra", "norm", "channels"),
  [
    (ModuleA, (32,), BN, 224 + 32),
    (ModuleB, (), NONE, 480 + 6),
    (ModuleC, (8,), BN, 768),
    (ModuleD, (), NONE, 512 + 6),
    (ModuleE, (), NONE, 2048),
  ],
  ids=lambda value: getattr(value, "__name__", None),
)
def test_modules_equal_torch(kind, extra, norm, channels, monkeypatch):
  # XLA's lowering compiles faster; other tests compare the lowerings.
  monkeypatch.setattr(conv, "default_platform", lambda: "gpu")
  module, x, mode = kind(norm, *extra), images(2, 8, 7, 6), Mode(train=True)
  variables = randomized(jax.eval_shape(lambda: module.init(KEY, x, mode)))
  params = variables["params"]
  kernels = [params[f"Unit_{i}"]["Conv_0"]["kernel"].shape for i in range(len(params))]
  assert " ".join(f"{rows}{columns}" for rows, columns, *_ in kernels) == KERNELS[kind]
  y, _ = jax.jit(lambda v: module.apply(v, x, mode, mutable=["batch_stats"]))(variables)
  assert y.shape[-1] == channels
  assert_close(np.moveaxis(y, -1, 1), torch_module(kind, channels_first(x), params))


def test_parameter_counts_equal_torchvision():
  params = shapes(InceptionV3(BN, 1000, "imagenet"), LARGE)["params"]
  total = sum(a.size for a in jax.tree.leaves(params))
  assert total == 27_161_264
  assert total - sum(a.size for a in jax.tree.leaves(params["Auxiliary_0"])) == 23_834_568


def multiply_adds(call):
  """Returns the multiply-adds of a layer for one of two images, from the shapes of a call."""
  layer, inputs, outputs = call
  return math.prod(outputs) // 2 * inputs[-1] * math.prod(getattr(layer, "kernel_size", (1,)))


@pytest.mark.parametrize(
  ("stem", "size", "sides", "macs"),
  # 5.71e9 multiply-adds is torchvision's count.
  [("imagenet", 299, (35, 17, 8), 5.713e9), ("cifar", 32, (8, 4, 2), None)],
)
def test_modules_shapes_and_multiply_adds(stem, size, sides, macs):
  calls, changed = module_calls(
    InceptionV3(NONE, 1000, stem),
    (size, size, 3),
    Mode(labels=LABELS),
    Auxiliary,
    *MODULES,
    Conv,
    Dense,
  )
  assert not any(isinstance(module, Auxiliary) for module, *_ in calls)  # only in training
  assert not changed
  if macs:
    linear = [call for call in calls if isinstance(call[0], Conv | Dense)]
    assert sum(map(multiply_adds, linear)) == pytest.approx(macs, rel=1e-3)
  calls = [call for call in calls if isinstance(call[0], MODULES)]
  a, c, e = sides
  assert [(type(module), *out[1:]) for module, _, out in calls] == [
    (ModuleA, a, a, 256),
    *[(ModuleA, a, a, 288)] * 2,
    (ModuleB, c, c, 768),
    *[(ModuleC, c, c, 768)] * 4,
    (ModuleD, e, e, 1280),
    *[(ModuleE, e, e, 2048)] * 2,
  ]
  assert [m.inner for m, *_ in calls if isinstance(m, ModuleC)] == [128, 160, 160, 192]


@pytest.mark.parametrize("size", [(17, 17), (4, 5)])
def test_the_auxiliary_loss_equals_torch(size):
  head, x, labels = Auxiliary(5, 0.4, BN), images(3, *size, 6), np.array([4, 0, 2])
  mode = Mode(train=True, labels=jnp.asarray(labels))
  variables = randomized(jax.eval_shape(lambda: head.init(KEY, x, Mode())))
  mutable = ["losses", "batch_stats"]
  changed = jax.jit(lambda v: head.apply(v, x, mode, mutable=mutable)[1])(variables)
  params = variables["params"]
  y = unit(F.avg_pool2d(channels_first(x), min(5, *size), 3), params["Unit_0"])
  logits = dense(unit(y, params["Unit_1"], 1, 0).mean((2, 3)), params["Dense_0"])
  (loss,) = changed["losses"]["auxiliary"]
  assert_close(loss, 0.4 * F.cross_entropy(logits, torch.tensor(labels), reduction="sum"))


def test_training_has_the_auxiliary_classifier():
  model, kinds = InceptionV3(NONE, 1000, "cifar"), (Auxiliary, ModuleC, ModuleD, nn.Dropout)
  calls, changed = module_calls(model, (32, 32, 3), Mode(train=True, labels=LABELS), *kinds)
  names = [type(module).__name__ for module, *_ in calls]
  assert names == [*["ModuleC"] * 4, "Auxiliary", "ModuleD", "Dropout"]
  assert calls[-1][0].rate == 0.5
  assert next(m.weight for m, *_ in calls if isinstance(m, Auxiliary)) == 0.4
  assert len(jax.tree.leaves(changed)) == 1
